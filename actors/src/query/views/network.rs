//! Nodes and links as this node sees them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::query::values::Timestamp;

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeType {
    /// Votes.
    Validator,
    /// Follows.
    Observer,
    /// Helps others to find nodes.
    Seed,
    /// Passes messages on.
    Relay,
}

/// Whether a node takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeStatus {
    /// It is connected and keeps up.
    Active,
    /// It is not connected.
    Inactive,
    /// It is connected and catches up.
    Syncing,
}

/// A node's measured performance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePerformance {
    /// Committed transactions a second; known of this node only.
    pub tps: Option<f64>,
    /// Round trip in milliseconds; none for this node itself or a dead link.
    pub latency: Option<f64>,
    /// Share of failed HTTP requests; none where it is not measured.
    pub error_rate: Option<f64>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its id: its name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(rename = "type")]
    pub kind: NodeType,
    /// Whether it takes part.
    pub status: NodeStatus,
    /// Where it is reached.
    pub ip_address: String,
    /// On which port.
    pub port: u16,
    /// Its region; none where the config names none.
    pub region: Option<String>,
    /// Seconds since it started (this node) or since its link is up; none where it is not connected.
    pub uptime: Option<u64>,
    /// Its connections; known of this node, and at least one of a connected peer.
    pub connections: Option<u64>,
    /// When it was last heard; none if never.
    pub last_seen: Option<Timestamp>,
    /// Its version; known of this node only.
    pub version: Option<String>,
    /// Its stake, decimal; none for an observer.
    pub stake: Option<String>,
    /// What was measured.
    pub performance: NodePerformance,
}

/// Whether a link works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EdgeStatus {
    /// It is up.
    Healthy,
    /// It is up and slow.
    Degraded,
    /// It is down.
    Down,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologyEdge {
    /// This node.
    pub source: String,
    /// The other end.
    pub target: String,
    /// Round trip in milliseconds.
    pub latency: Option<f64>,
    /// Bytes a second in both directions, measured since the last look.
    pub bandwidth: Option<f64>,
    /// Whether it works.
    pub status: EdgeStatus,
}

/// The network in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologySummary {
    /// Nodes of the config.
    pub total_nodes: u64,
    /// Those that are active.
    pub active_nodes: u64,
    /// Links that are up.
    pub total_connections: u64,
    /// Mean round trip over the links that are up, milliseconds.
    pub average_latency: Option<f64>,
    /// Share of active nodes, 0 to 100.
    pub network_health: f64,
}

/// The network as this node sees it: its own links; those between other nodes are not known to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologyView {
    /// All nodes of the config.
    pub nodes: Vec<NodeView>,
    /// This node's links.
    pub edges: Vec<TopologyEdge>,
    /// In figures.
    pub summary: TopologySummary,
}

/// Traffic of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStats {
    /// Nodes of the config.
    pub total_nodes: u64,
    /// Those that are active.
    pub active_nodes: u64,
    /// Links that are up.
    pub total_connections: u64,
    /// Mean round trip over the links that are up, milliseconds.
    pub avg_latency: Option<f64>,
    /// Share of active nodes, 0 to 100.
    pub network_health: f64,
    /// Bytes received from other nodes since this one started.
    pub bytes_in: Option<u64>,
    /// Bytes sent to other nodes since this one started.
    pub bytes_out: Option<u64>,
    /// Messages received from other nodes since this one started.
    pub messages_in: Option<u64>,
    /// Messages sent to other nodes since this one started.
    pub messages_out: Option<u64>,
}
