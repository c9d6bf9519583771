//! Bearer tokens: known by their BLAKE3 digests only, compared in constant time.

use aurigraph_actors::settings::TokenGrant;
use aurigraph_ledger::{Hash, blake3_digest};
use warp::http::StatusCode;
use warp::http::header::{AUTHORIZATION, HeaderMap};

use crate::problem::Problem;

/// The grant of the token that the request shows; none if it shows none.
///
/// # Errors
/// 401 for another scheme or an unknown token.
pub fn grant_of<'a>(grants: &'a [TokenGrant], headers: &HeaderMap) -> Result<Option<&'a TokenGrant>, Problem> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let refuse = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials", detail);
    let text = value.to_str().map_err(|_| refuse("the Authorization header is not text"))?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(refuse("the Authorization header is not of the form `Bearer <token>`")),
    };
    let digest = blake3_digest(token.as_bytes());
    // Every grant is looked at in full, so that the time tells nothing about where or whether one matched.
    let found =
        grants.iter().fold(None, |found, grant| if equal(&grant.digest, &digest) { Some(grant) } else { found });
    found.map(Some).ok_or_else(|| refuse("the bearer token is unknown"))
}

fn equal(a: &Hash, b: &Hash) -> bool {
    let difference = a.0.iter().zip(&b.0).fold(0_u8, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// 401 where no token is shown.
#[must_use]
pub fn credentials_wanted(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "credentials_required", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants() -> Vec<TokenGrant> {
        vec![
            TokenGrant { digest: blake3_digest(b"one"), account: Some(Hash::ZERO), admin: false },
            TokenGrant { digest: blake3_digest(b"two"), account: None, admin: true },
        ]
    }

    fn shown(value: &str) -> Result<Option<bool>, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a header value"));
        let grants = grants();
        grant_of(&grants, &headers)
            .map(|grant| grant.map(|grant| grant.admin))
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn a_token_gives_its_own_grant_and_every_other_text_is_refused() {
        assert_eq!(shown("Bearer one"), Ok(Some(false)));
        assert_eq!(shown("bearer two"), Ok(Some(true)));
        for value in ["Bearer three", "Bearer ", "Bearer", "Basic one", "one", "Bearer one two"] {
            assert_eq!(shown(value), Err(401), "{value:?}");
        }
        assert_eq!(grant_of(&grants(), &HeaderMap::new()).map(|grant| grant.is_none()), Ok(true));
    }
}
