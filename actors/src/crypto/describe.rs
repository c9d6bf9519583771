//! What the metrics of signature checking mean, for the exporter.

/// Registers the descriptions.
pub(crate) fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_counter!("signature_checks_total", "Signatures checked, by the back-end that did it");
    describe_counter!("verify_refused_total", "Checks refused because their class's queue was full");
    describe_counter!("verify_redispatched_total", "Checks given to another verifier because theirs did not do them");
    describe_gauge!("verify_queue", "Checks that wait, by class");
    describe_counter!("verdict_cache_hits_total", "Verdicts about transactions that were known");
    describe_counter!("verdict_cache_misses_total", "Verdicts about transactions that had to be reached");
    describe_gauge!("verdict_cache_entries", "Verdicts kept");
    describe_counter!("expanded_key_hits_total", "Senders' keys found expanded, on the processor");
    describe_counter!("expanded_key_misses_total", "Senders' keys that had to be expanded, on the processor");
    describe_counter!("expanded_key_evictions_total", "Expanded keys that made room for others, on the processor");
    describe_gauge!("expanded_keys", "Expanded keys held for the processor");
    describe_gauge!("expanded_key_bytes", Unit::Bytes, "Bytes of expanded keys held for the processor");
    describe_gauge!("gpu_used", "1 while the device checks signatures, 0 while it is absent, tested or in quarantine");
    describe_gauge!(
        "gpu_utilization_percent",
        Unit::Percent,
        "Time of the last second in which the device had a batch"
    );
    describe_gauge!("gpu_batch_size", "Signatures in the device's newest batch");
    describe_gauge!("gpu_queue", "Signatures that its worker gathers for the device's next batch");
    describe_counter!("gpu_key_hits_total", "Signatures whose key was in the device's table of expanded keys");
    describe_counter!("gpu_key_misses_total", "Signatures whose key was not there");
    describe_counter!("gpu_key_evictions_total", "Keys that made room for others in the device's table");
    describe_gauge!("gpu_key_bytes", Unit::Bytes, "Bytes of expanded keys in the device's table");
    describe_counter!("gpu_batches_total", "Batches that the device did");
    describe_counter!("gpu_transferred_bytes_total", Unit::Bytes, "Bytes copied to and from the device");
    describe_counter!("gpu_fallbacks_total", "Batches that the device failed, by why: error, lie or hung");
    describe_counter!("gpu_cross_checks_total", "Verdicts of the device that were compared with the processor's");
}
