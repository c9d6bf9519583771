//! Reading what stands in paths and query strings: strict, and every refusal names the field and the value.

use std::str::FromStr;

use aurigraph_actors::bounds::query::PAGE_SIZE;
use aurigraph_actors::query::views::Page;
use aurigraph_ledger::Hash;
use percent_encoding::percent_decode_str;

use crate::problem::Problem;

/// The greatest page number: the greatest integer that every JSON reader holds exactly.
pub const MAX_PAGE: u64 = (1 << 53) - 1;
/// The page size where none is asked for.
const DEFAULT_PAGE_SIZE: u64 = 20;

/// Undoes percent-encoding. 400 if what comes out is not UTF-8.
///
/// # Errors
/// [`Problem`] naming the field.
pub fn decoded(field: &str, text: &str) -> Result<String, Problem> {
    let bytes = percent_decode_str(text);
    bytes
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Problem::bad("malformed_parameter", format!("{field} is not UTF-8 after percent-decoding")))
}

/// A query string, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`Problem`] if a part is not UTF-8, or a name stands twice.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decoded("a query parameter's name", &name.replace('+', " "))?;
            let value = decoded(&name, &value.replace('+', " "))?;
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::bad("malformed_parameter", format!("{name} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A number in a range, if it is given.
    ///
    /// # Errors
    /// [`Problem`] if it is no number or out of range.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        self.get(name).map(|text| in_range(name, number(name, text)?, min, max)).transpose()
    }

    /// `page` and `pageSize`.
    ///
    /// # Errors
    /// [`Problem`] if one of them is no number or out of range.
    pub fn page(&self) -> Result<Page, Problem> {
        let read = |name| self.get(name).map(|text| number(name, text)).transpose();
        page_of(read("page")?, read("pageSize")?)
    }
}

/// `page` from 1 and `pageSize` from 1 to 200, with their defaults.
///
/// # Errors
/// [`Problem`] if one of them is out of range.
pub fn page_of(page: Option<u64>, page_size: Option<u64>) -> Result<Page, Problem> {
    let number = in_range("page", page.unwrap_or(1), 1, MAX_PAGE)?;
    let size = in_range("pageSize", page_size.unwrap_or(DEFAULT_PAGE_SIZE), 1, PAGE_SIZE as u64)?;
    Ok(Page { number, size })
}

fn in_range(name: &str, value: u64, min: u64, max: u64) -> Result<u64, Problem> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(Problem::bad("parameter_out_of_range", format!("{name} is {value}, allowed is {min} to {max}")))
}

/// A number in plain decimal digits.
///
/// # Errors
/// [`Problem`] naming the field and the text.
pub fn number<T: FromStr>(name: &str, text: &str) -> Result<T, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = if digits { text.parse().ok() } else { None };
    value.ok_or_else(|| Problem::bad("malformed_parameter", format!("{name} is {text:?}, not a number in range")))
}

/// A hash or an address: `0x` and 64 hex digits.
///
/// # Errors
/// [`Problem`] naming the field and what is wrong.
pub fn hash(name: &str, text: &str) -> Result<Hash, Problem> {
    let text = decoded(name, text)?;
    text.parse().map_err(|error| Problem::bad("malformed_hash", format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(raw: &str) -> Result<(u64, u64), u16> {
        let page = Query::parse(raw).and_then(|query| query.page());
        page.map(|page| (page.number, page.size)).map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn pages_start_at_one_and_hold_at_most_two_hundred() {
        assert_eq!(page(""), Ok((1, 20)));
        assert_eq!(page("page=3&pageSize=200"), Ok((3, 200)));
        assert_eq!(page("page=9007199254740991"), Ok((MAX_PAGE, 20)));
        for raw in [
            "page=0",
            "pageSize=0",
            "pageSize=201",
            "page=-1",
            "page=1.5",
            "page=",
            "page=x",
            "page=%31%C3",
            "page=1&page=2",
            "page=9007199254740992",
            "page=18446744073709551616",
        ] {
            assert_eq!(page(raw), Err(400), "{raw}");
        }
    }

    #[test]
    fn a_page_far_past_the_end_is_empty_and_does_not_overflow() {
        let far = Page { number: u64::MAX, size: 200 };
        assert_eq!(far.of([1, 2, 3]), Vec::<i32>::new());
        assert_eq!(Page { number: 2, size: 2 }.of([1, 2, 3]), [3]);
    }

    #[test]
    fn values_are_percent_decoded_and_plus_is_a_space() {
        let query = Query::parse("name=a%2Fb+c&empty&=x").expect("reads");
        assert_eq!(query.get("name"), Some("a/b c"));
        assert_eq!(query.get("empty"), Some(""));
        assert_eq!(query.get("other"), None);
    }

    #[test]
    fn bad_hashes_are_refused_with_the_reason() {
        for text in ["", "0x", "12", &format!("0x{}", "z".repeat(64)), &"0".repeat(64), "0x%00"] {
            assert_eq!(hash("hash", text).map_err(|problem| problem.code), Err("malformed_hash"), "{text}");
        }
        assert!(hash("hash", &format!("0x{}", "Ab".repeat(32))).is_ok());
    }
}
