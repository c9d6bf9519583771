//! A list in shared chunks: copies are one reference count, a change copies one chunk.

use std::sync::Arc;

/// A list that is read and written by position and grows at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunked<T, const N: usize>(Arc<Vec<Arc<Vec<T>>>>);

impl<T, const N: usize> Default for Chunked<T, N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone, const N: usize> Chunked<T, N> {
    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * N + last.len())
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.0.get(at / N)?.get(at % N)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.get(at)?;
        let chunk = Arc::make_mut(&mut self.0).get_mut(at / N)?;
        Arc::make_mut(chunk).get_mut(at % N)
    }

    pub(super) fn push(&mut self, value: T) {
        let chunks = Arc::make_mut(&mut self.0);
        match chunks.last_mut().filter(|last| last.len() < N) {
            Some(last) => Arc::make_mut(last).push(value),
            None => chunks.push(Arc::new(vec![value])),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|chunk| chunk.iter())
    }

    pub(super) fn chunks(&self) -> &[Arc<Vec<T>>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_chunk_of_a_shared_list() {
        let mut list = Chunked::<u32, 4>::default();
        (0..10).for_each(|value| list.push(value));
        let before = list.clone();
        *list.get_mut(5).expect("ten values") = 50;
        list.push(10);
        assert_eq!((before.len(), list.len(), list.get(11)), (10, 11, None));
        assert_eq!(list.get_mut(11), None);
        assert!(before.iter().copied().eq(0..10));
        assert!(Arc::ptr_eq(&before.chunks()[0], &list.chunks()[0]));
        assert!(!Arc::ptr_eq(&before.chunks()[1], &list.chunks()[1]));
    }
}
