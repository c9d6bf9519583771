//! Making many things on every core: keys and signatures.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{CliError, CliResult};

/// Makes `count` things in order, on every core. Blocks.
///
/// # Errors
/// The first failure; what is not begun then is not made.
pub fn make<T: Send>(count: usize, one: impl Fn(usize) -> CliResult<T> + Sync) -> CliResult<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let slots: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = slots.get(at) else { break };
                    match one(at) {
                        Ok(made) => *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(made),
                        Err(error) => {
                            next.store(count, Ordering::Relaxed);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let made = slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    made.collect::<Option<Vec<T>>>().ok_or_else(|| CliError::failed("a thread ended before its work was done"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_keeps_its_order_and_a_failure_ends_it() {
        assert_eq!(make(1_000, Ok).unwrap(), (0..1_000).collect::<Vec<_>>());
        let made = make(1_000, |at| if at == 7 { Err(CliError::failed("seven")) } else { Ok(at) });
        assert_eq!(made.unwrap_err().message, "seven");
    }
}
