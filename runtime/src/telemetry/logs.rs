//! The log: one Elastic Common Schema object a line for machines, plain text for a terminal.
//!
//! Secrets, keys and bearer tokens never reach a log line: nobody logs message contents, and the cluster library, which
//! would do so at its debug level, is held at info whatever the filter says.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use super::metrics::TelemetryError;
use super::outlet::Outlet;

/// The environment variable that overrides the filter.
pub const FILTER_VARIABLE: &str = "AURIGRAPH_LOG";

/// What is logged unless something else is asked for. ractor reports each start and end of an actor, and so do we.
const DEFAULT_FILTER: &str = "info,ractor=warn,rustls=warn,hyper=warn,sled=warn";

/// What the library that logs payloads at its debug level is called.
const PAYLOAD_LOGGER: &str = "ractor_cluster";

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One ECS object a line.
    Json,
    /// For people.
    Text,
}

/// How a node logs.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The node's name, in every line.
    pub node: String,
    /// How lines look.
    pub format: LogFormat,
    /// `level` or `target=level`, separated by commas; none for the default. `AURIGRAPH_LOG` overrides it.
    pub filter: Option<String>,
}

/// Installs the log of this process on standard error, and a panic hook that writes to it.
///
/// # Errors
/// [`TelemetryError`] for an invalid filter, or if a log was installed before.
pub fn install(settings: &LogSettings) -> Result<(), TelemetryError> {
    let asked = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let asked = asked.or_else(|| settings.filter.clone());
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let subscriber = subscriber(&settings.node, json, asked.as_deref(), Outlet::standard_error())?;
    tracing::subscriber::set_global_default(subscriber).map_err(|error| TelemetryError::Log(error.to_string()))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is a log line like any other: a supervisor catches it, and standard error carries one object a line.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(
        error.type = "panic",
        error.message = text,
        error.place = place,
        process.thread.name = thread.name().unwrap_or("unnamed"),
        "panic: {text}"
    );
}

/// The subscriber that writes to `writer`.
fn subscriber<W>(
    node: &str,
    json: bool,
    filter: Option<&str>,
    writer: W,
) -> Result<impl tracing::Subscriber + Send + Sync + use<W>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = env_filter(filter.unwrap_or(DEFAULT_FILTER))?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if json {
        let extra = serde_json::json!({
            "ecs.version": "8.11.0",
            "service.name": "aurigraph",
            "service.version": env!("CARGO_PKG_VERSION"),
            "service.node.name": node,
            "event.dataset": "aurigraph.log",
        });
        let builder = tracing_ecs::ECSLayerBuilder::default().with_extra_fields(extra);
        let builder = builder.map_err(|error| TelemetryError::Log(error.to_string()))?;
        Box::new(builder.normalize_json(false).build_with_writer(writer))
    } else {
        Box::new(tracing_subscriber::fmt::layer().with_writer(writer))
    };
    let no_payloads = filter_fn(|metadata| {
        let chatty = *metadata.level() > Level::INFO;
        !(chatty && metadata.target().starts_with(PAYLOAD_LOGGER))
    });
    Ok(Registry::default().with(lines.with_filter(no_payloads)).with(filter))
}

fn env_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    fn logged(json: bool, filter: Option<&str>, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber("v1", json, filter, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        lines.text()
    }

    #[test]
    fn a_json_line_is_one_object_with_the_common_fields_and_the_actor_of_its_span() {
        let text = logged(true, None, || {
            let span = tracing::info_span!("actor", aurigraph.actor = "v1/journal", aurigraph.generation = 3_u64);
            let _entered = span.enter();
            tracing::warn!(aurigraph.height = 17_u64, error.message = "disk full", "cannot append:\n{}", "why");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "cannot append:\nwhy");
        assert_eq!(line["log.level"], "WARN");
        assert_eq!(line["service.name"], "aurigraph");
        assert_eq!(line["service.node.name"], "v1");
        assert_eq!(line["event.dataset"], "aurigraph.log");
        assert_eq!(line["aurigraph.actor"], "v1/journal");
        assert_eq!(line["aurigraph.height"], 17);
        assert_eq!(line["error.message"], "disk full");
        let at = line["@timestamp"].as_str().unwrap();
        let parsed = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339);
        assert!(parsed.is_ok(), "{at}");
    }

    #[test]
    fn the_cluster_library_never_logs_payloads_whatever_the_filter_says() {
        for filter in ["trace", "ractor_cluster=trace", "ractor_cluster::net=debug,info"] {
            let text = logged(true, Some(filter), || {
                tracing::debug!(target: "ractor_cluster::net::session", "payload: SECRET");
                tracing::trace!(target: "ractor_cluster", "payload: SECRET");
                tracing::info!(target: "ractor_cluster::net::session", "connected");
            });
            assert!(!text.contains("SECRET"), "{filter}: {text}");
            assert!(text.contains("connected"), "{filter}: {text}");
        }
    }

    #[test]
    fn the_default_filter_shows_information_and_no_debugging() {
        let text = logged(false, None, || {
            tracing::info!("seen");
            tracing::debug!("unseen");
            tracing::info!(target: "ractor::actor", "unseen");
        });
        assert!(text.contains("seen") && !text.contains("unseen"), "{text}");
        assert!(!text.starts_with('{'), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_named_in_the_error() {
        let error = subscriber("v1", true, Some("aurigraph=loud"), std::io::sink).err().unwrap();
        assert!(error.to_string().contains("aurigraph=loud"), "{error}");
    }
}
