//! Credit on an edge between actors, weighted by bytes or items, for messages that carry bulk data.
//!
//! A mailbox bounds how many messages wait; an edge bounds how much they weigh. The permit travels inside the message
//! and gives its credit back when the message is handled or dropped, wherever that happens.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// One edge; cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    name: String,
    capacity: u32,
    credit: Arc<Semaphore>,
    used: metrics::Gauge,
    refused: metrics::Counter,
}

/// Why an edge gave no credit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// Too much is under way.
    #[error("the edge {edge} has {free} of {capacity} free, not {weight}")]
    Full {
        /// Which edge.
        edge: String,
        /// What was asked for.
        weight: u32,
        /// What is free.
        free: u32,
        /// What there is at all.
        capacity: u32,
    },
    /// More than the edge ever has: waiting would never end.
    #[error("{weight} is more than the edge {edge} ever has ({capacity})")]
    TooHeavy {
        /// Which edge.
        edge: String,
        /// What was asked for.
        weight: u32,
        /// What there is at all.
        capacity: u32,
    },
}

/// Credit taken from an edge; dropping it gives the credit back.
pub struct EdgePermit {
    credit: Option<OwnedSemaphorePermit>,
    weight: u32,
    edge: Arc<Inner>,
}

impl std::fmt::Debug for EdgePermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EdgePermit({} of {})", self.weight, self.edge.name)
    }
}

impl EdgePermit {
    /// How much it holds.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.weight
    }
}

impl Drop for EdgePermit {
    fn drop(&mut self) {
        drop(self.credit.take());
        self.edge.show();
    }
}

impl Edge {
    /// An edge that lets this much be under way. Made after the metrics recorder was installed, or its gauge
    /// (`actor_edge_used`) shows nothing.
    #[must_use]
    pub fn new(name: impl Into<String>, capacity: u32) -> Self {
        let name = name.into();
        let label = || [("edge", name.clone())];
        let inner = Inner {
            used: metrics::gauge!("actor_edge_used", &label()),
            refused: metrics::counter!("actor_edge_refused_total", &label()),
            credit: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
            name: name.clone(),
        };
        metrics::gauge!("actor_edge_capacity", &label()).set(f64::from(capacity));
        inner.show();
        Self(Arc::new(inner))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How much may be under way.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.0.capacity
    }

    /// How much is under way.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.0.capacity - self.0.free()
    }

    /// Takes credit now or refuses: never waits.
    ///
    /// # Errors
    /// [`EdgeError`].
    pub fn try_acquire(&self, weight: u32) -> Result<EdgePermit, EdgeError> {
        self.check(weight)?;
        match Arc::clone(&self.0.credit).try_acquire_many_owned(weight) {
            Ok(credit) => Ok(self.permit(credit, weight)),
            // The semaphore is never closed.
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                self.0.refused.increment(1);
                let (edge, free, capacity) = (self.0.name.clone(), self.0.free(), self.0.capacity);
                Err(EdgeError::Full { edge, weight, free, capacity })
            }
        }
    }

    /// Waits for credit, in the order of asking. For edges inside one pipeline only; consensus never calls it.
    ///
    /// # Errors
    /// [`EdgeError::TooHeavy`].
    pub async fn acquire(&self, weight: u32) -> Result<EdgePermit, EdgeError> {
        self.check(weight)?;
        match Arc::clone(&self.0.credit).acquire_many_owned(weight).await {
            Ok(credit) => Ok(self.permit(credit, weight)),
            Err(_) => unreachable!("the semaphore of an edge is never closed"),
        }
    }

    fn check(&self, weight: u32) -> Result<(), EdgeError> {
        if weight <= self.0.capacity {
            return Ok(());
        }
        self.0.refused.increment(1);
        Err(EdgeError::TooHeavy { edge: self.0.name.clone(), weight, capacity: self.0.capacity })
    }

    fn permit(&self, credit: OwnedSemaphorePermit, weight: u32) -> EdgePermit {
        self.0.show();
        EdgePermit { credit: Some(credit), weight, edge: Arc::clone(&self.0) }
    }
}

impl Inner {
    fn free(&self) -> u32 {
        // Never more than the capacity, which is a u32.
        u32::try_from(self.credit.available_permits()).unwrap_or(self.capacity)
    }

    fn show(&self) {
        self.used.set(f64::from(self.capacity - self.free()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_edge_refuses_and_names_what_is_free() {
        let edge = Edge::new("batches", 100);
        let first = edge.try_acquire(70).unwrap();
        let refused = edge.try_acquire(31).unwrap_err();
        assert_eq!(refused, EdgeError::Full { edge: "batches".into(), weight: 31, free: 30, capacity: 100 });
        assert_eq!(edge.used(), 70);
        drop(first);
        assert_eq!(edge.used(), 0);
        assert!(edge.try_acquire(100).is_ok());
    }

    #[tokio::test]
    async fn more_than_the_edge_ever_has_is_refused_instead_of_waited_for() {
        let edge = Edge::new("batches", 10);
        let refused = EdgeError::TooHeavy { edge: "batches".into(), weight: 11, capacity: 10 };
        assert_eq!(edge.acquire(11).await.unwrap_err(), refused);
        assert_eq!(edge.try_acquire(11).unwrap_err(), refused);
    }

    #[tokio::test]
    async fn a_heavy_waiter_is_not_overtaken_for_ever_by_light_ones() {
        let edge = Edge::new("batches", 10);
        let held = edge.try_acquire(5).unwrap();
        let heavy = tokio::spawn({
            let edge = edge.clone();
            async move { edge.acquire(10).await.map(|permit| permit.weight()) }
        });
        tokio::task::yield_now().await;
        let light = tokio::spawn({
            let edge = edge.clone();
            async move { edge.acquire(1).await.map(|permit| permit.weight()) }
        });
        tokio::task::yield_now().await;
        assert!(!light.is_finished(), "it stands behind the heavy one");
        drop(held);
        assert_eq!(heavy.await.unwrap(), Ok(10));
        assert_eq!(light.await.unwrap(), Ok(1));
        assert_eq!(edge.used(), 0);
    }
}
