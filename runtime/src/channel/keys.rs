//! The exact allow-list: which public key stands for which peer. It can change while the node runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::identity::{IdentityError, PUBLIC_KEY_BYTES, spki};

/// Peer names and their keys, shared by every channel of a node. Cheap to clone.
#[derive(Clone, Default)]
pub struct PeerKeys(Arc<RwLock<Table>>);

#[derive(Default)]
struct Table {
    by_name: BTreeMap<String, Vec<Arc<[u8]>>>,
    by_key: BTreeMap<Arc<[u8]>, String>,
}

impl std::fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.read().by_name.keys()).finish()
    }
}

impl PeerKeys {
    /// A list of names and raw public keys. A name may stand in it several times: a peer whose key changes has two for a
    /// while.
    ///
    /// # Errors
    /// [`IdentityError::KeyLength`] or [`IdentityError::SharedKey`].
    pub fn new<'a>(peers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, IdentityError> {
        let keys = Self::default();
        keys.replace(peers)?;
        Ok(keys)
    }

    /// Replaces the list at once, or leaves it as it was. Handshakes from now on follow the new list; running sessions
    /// are the caller's to re-check.
    ///
    /// # Errors
    /// [`IdentityError::KeyLength`] or [`IdentityError::SharedKey`].
    pub fn replace<'a>(&self, peers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), IdentityError> {
        let mut table = Table::default();
        for (name, key) in peers {
            if key.len() != PUBLIC_KEY_BYTES {
                return Err(IdentityError::KeyLength { name: name.to_owned(), length: key.len() });
            }
            let info: Arc<[u8]> = spki(key).into();
            if let Some(first) = table.by_key.insert(Arc::clone(&info), name.to_owned()) {
                return Err(IdentityError::SharedKey { first, second: name.to_owned() });
            }
            table.by_name.entry(name.to_owned()).or_default().push(info);
        }
        *self.0.write() = table;
        Ok(())
    }

    /// Is this a key now listed for the name?
    #[must_use]
    pub fn lists(&self, name: &str, info: &[u8]) -> bool {
        self.0.read().by_name.get(name).is_some_and(|listed| listed.iter().any(|one| **one == *info))
    }

    /// Every SubjectPublicKeyInfo listed for a name.
    pub(crate) fn infos_of(&self, name: &str) -> Vec<Arc<[u8]>> {
        self.0.read().by_name.get(name).cloned().unwrap_or_default()
    }

    /// The name for which exactly this SubjectPublicKeyInfo is listed.
    pub(crate) fn name_of(&self, info: &[u8]) -> Option<String> {
        self.0.read().by_key.get(info).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_listed_twice_or_of_wrong_length_changes_nothing() {
        let (one, two) = (vec![1; PUBLIC_KEY_BYTES], vec![2; PUBLIC_KEY_BYTES]);
        let keys = PeerKeys::new([("a", one.as_slice())]).expect("good list");
        assert!(matches!(
            keys.replace([("b", two.as_slice()), ("c", two.as_slice())]),
            Err(IdentityError::SharedKey { .. })
        ));
        assert!(matches!(keys.replace([("b", &two[1..])]), Err(IdentityError::KeyLength { length: 2_591, .. })));
        assert!(keys.lists("a", &spki(&one)));
        keys.replace([("a", two.as_slice())]).expect("good list");
        assert!(!keys.lists("a", &spki(&one)));
        assert_eq!(keys.name_of(&spki(&two)).as_deref(), Some("a"));
        assert_eq!(keys.name_of(&spki(&one)), None);
        keys.replace([("a", two.as_slice()), ("a", one.as_slice())]).expect("a peer may have two keys");
        assert!(keys.lists("a", &spki(&one)) && keys.lists("a", &spki(&two)));
        assert_eq!(keys.name_of(&spki(&one)).as_deref(), Some("a"));
    }
}
