//! What a step is.

use crate::medium::Medium;

/// Why a step could not go on; the upgrade stops there and resumes at the same chunk.
pub type StepError = Box<dyn std::error::Error + Send + Sync>;

/// One numbered upgrade. It states a wanted result and brings the database there in chunks; applying it, or any chunk of
/// it, again changes nothing. "Already exists" is therefore never an error.
pub trait Step: Send + Sync {
    /// Its number: 1, 2, 3 … without a gap.
    fn version(&self) -> u32;

    /// Its name, in lower case with underscores.
    fn name(&self) -> &str;

    /// What its checksum covers: its note, its code, its tables, as texts. Once a step was released, none of it changes.
    fn content(&self) -> &[&str];

    /// Does one chunk of bounded size. `from` is none at first, then what the chunk before handed to
    /// [`Advance::More`].
    ///
    /// # Errors
    /// Whatever the medium or the step's own checks say.
    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError>;
}

/// How far a step is after a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    /// There is more to do, from here.
    More(Vec<u8>),
    /// The wanted result is reached.
    Done,
}

/// The checksum of a step's declared content: version, name and texts, each with its length.
#[must_use]
pub fn checksum(step: &dyn Step) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&step.version().to_le_bytes());
    for text in [step.name()].iter().chain(step.content()) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// `V007__account_pages`.
#[must_use]
pub fn label(version: u32, name: &str) -> String {
    format!("V{version:03}__{name}")
}
