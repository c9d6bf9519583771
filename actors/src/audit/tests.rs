//! Tests of the audit log as a whole.
