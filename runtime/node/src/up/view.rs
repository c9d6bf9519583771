//! What `up` shows: progress, then the table of nodes, rewritten in place on a terminal.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::json;

use super::child::NodeProcess;
use crate::output::{Output, json_line, say, table};

/// Where and how the nodes are shown.
pub struct View {
    output: Output,
    terminal: bool,
    /// Lines of the table that stand on the terminal and may be rewritten.
    drawn: usize,
    last_progress: RefCell<Vec<String>>,
}

impl View {
    /// A view on standard output.
    pub fn new(output: Output) -> Self {
        let terminal = output == Output::Text && std::io::stdout().is_terminal();
        Self { output, terminal, drawn: 0, last_progress: RefCell::default() }
    }

    /// Is there anything to refresh.
    pub const fn is_live(&self) -> bool {
        self.terminal
    }

    /// Which nodes are not ready yet; said once for each change.
    pub fn progress(&self, waiting: &[String]) {
        let mut last = self.last_progress.borrow_mut();
        if self.output == Output::Text && *last != waiting {
            if !waiting.is_empty() {
                eprintln!("starting; not ready yet: {}", waiting.join(", "));
            }
            waiting.clone_into(&mut last);
        }
    }

    /// All nodes are ready.
    pub fn ready(&mut self, nodes: &[NodeProcess], base: &Path, curl: Option<&str>) {
        if self.output == Output::Json {
            for node in nodes {
                let line = json!({"node": node.name, "pid": node.pid, "url": node.url, "height": node.height});
                say(&json_line(&line));
            }
        } else {
            say(&format!("ready; data and logs in {}; Ctrl-C stops all", base.display()));
            if let Some(curl) = curl {
                say(&format!("\na transfer of 1.5 AUR:\n  {curl}\n"));
            }
            let rows: Vec<_> = nodes.iter().map(|node| row(node, "running")).collect();
            self.draw(&rows);
        }
    }

    /// A node's process ended.
    pub fn died(&mut self, node: &NodeProcess, ended: &str, bring_back: &str) {
        if self.output == Output::Json {
            let line =
                json!({"event": "died", "node": node.name, "pid": node.pid, "reason": ended, "restart": bring_back});
            say(&json_line(&line));
        } else {
            self.drawn = 0;
            let (name, pid) = (&node.name, node.pid);
            say(&format!("node {name} (pid {pid}) died: {ended}\n  bring it back with: {bring_back}"));
        }
    }

    /// Rewrites the table.
    pub fn refresh(&mut self, nodes: &mut [NodeProcess]) {
        let rows: Vec<_> = nodes
            .iter_mut()
            .map(|node| {
                let state = node.state();
                row(node, state)
            })
            .collect();
        self.draw(&rows);
    }

    /// The nodes are being stopped.
    pub fn stopping(&self) {
        if self.output == Output::Text {
            say("stopping");
        }
    }

    fn draw(&mut self, rows: &[Vec<String>]) {
        let text = table(&["name", "pid", "URL", "height", "state"], rows);
        if !self.terminal {
            return say(&text);
        }
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let lines: Vec<_> = text.lines().map(|line| format!("\x1b[2K{line}")).collect();
        say(&(up + &lines.join("\n")));
        self.drawn = text.lines().count();
    }
}

fn row(node: &NodeProcess, state: &str) -> Vec<String> {
    let height = node.height.map_or_else(|| "-".to_owned(), |height| height.to_string());
    vec![node.name.clone(), node.pid.to_string(), node.url.clone(), height, state.to_owned()]
}
