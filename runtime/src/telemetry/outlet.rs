//! Where log lines leave the process: each in one piece, and none after the last words.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error, shared by the log and the last words.
static STANDARD_ERROR: LazyLock<Outlet> = LazyLock::new(|| Outlet::new(std::io::stderr()));

/// Writes the last line of the process to standard error: whatever threads still log afterwards is dropped, so that who
/// started the process finds the reason at the end. Without a working standard error there is nobody to tell.
pub fn last_words(text: &str) {
    STANDARD_ERROR.close(text);
}

/// A place that takes whole lines until it is closed.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Mutex<Option<Box<dyn Write + Send>>>>);

impl Outlet {
    fn new(sink: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(sink)))))
    }

    pub(super) fn standard_error() -> Self {
        STANDARD_ERROR.clone()
    }

    fn write(&self, bytes: &[u8]) {
        if let Some(sink) = &mut *self.0.lock() {
            // A full disk or a closed pipe: the log is the last place to complain in.
            let _ = sink.write_all(bytes).and_then(|()| sink.flush());
        }
    }

    fn close(&self, text: &str) {
        if let Some(mut sink) = self.0.lock().take() {
            let _ = sink.write_all(format!("{text}\n").as_bytes()).and_then(|()| sink.flush());
        }
    }
}

impl<'writer> MakeWriter<'writer> for Outlet {
    type Writer = Line;

    fn make_writer(&'writer self) -> Line {
        Line { bytes: Vec::new(), outlet: self.clone() }
    }
}

/// One event's text, written when it is complete: formatters write it in many pieces.
pub(super) struct Line {
    bytes: Vec<u8>,
    outlet: Outlet,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.outlet.write(&self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_whole_and_none_comes_after_the_last_words() {
        let text = Text::default();
        let outlet = Outlet::new(text.clone());
        let (mut first, mut second) = (outlet.make_writer(), outlet.make_writer());
        let mut late = outlet.make_writer();
        first.write_all(b"one ").unwrap();
        second.write_all(b"two ").unwrap();
        first.write_all(b"ends\n").unwrap();
        late.write_all(b"late\n").unwrap();
        second.write_all(b"ends\n").unwrap();
        drop((first, second));
        outlet.close("error: why");
        drop(late);
        outlet.close("error: something else");
        assert_eq!(String::from_utf8(text.0.lock().clone()).unwrap(), "one ends\ntwo ends\nerror: why\n");
    }
}
