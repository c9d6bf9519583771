//! The sampled metrics of the tree.

/// The sampled metrics of one actor; kept, because looking a series up by label allocates.
pub(super) struct Meters {
    pub(super) depth: metrics::Gauge,
    pub(super) bound: metrics::Gauge,
    pub(super) messages: metrics::Counter,
    pub(super) busy_ms: metrics::Counter,
}

impl Meters {
    pub(super) fn new(name: &str) -> Self {
        let actor = || [metrics::Label::new("actor", name.to_owned())].to_vec();
        Self {
            depth: metrics::gauge!("actor_mailbox_depth", actor()),
            bound: metrics::gauge!("actor_mailbox_bound", actor()),
            messages: metrics::counter!("actor_messages_total", actor()),
            busy_ms: metrics::counter!("actor_busy_milliseconds_total", actor()),
        }
    }
}
