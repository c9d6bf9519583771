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

    /// Whether the wanted result is in the database, whatever the history says. `repair` records a step only if this is
    /// [`Presence::Complete`]. Reads in chunks of bounded size.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn presence(&self, _medium: &dyn Medium) -> Result<Presence, StepError> {
        Ok(Presence::Unknown)
    }

    /// The tree that the step walks, if what it hands to [`Advance::More`] are keys of it: then the time left is known.
    fn source(&self) -> Option<&str> {
        None
    }

    /// True if [`Step::retreat`] goes back to the version before.
    fn reversible(&self) -> bool {
        false
    }

    /// Does one chunk of the way back to the version before, under the same rules as [`Step::advance`].
    ///
    /// # Errors
    /// Whatever the medium or the step's own checks say; the provided one always.
    fn retreat(&self, _medium: &dyn Medium, _from: Option<&[u8]>) -> Result<Advance, StepError> {
        Err("this step has no way back".into())
    }
}

/// Whether a step's wanted result is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// All of it.
    Complete,
    /// Some of it; the text says what is missing.
    Partial(String),
    /// Nothing of it.
    Absent,
    /// The step cannot tell.
    Unknown,
}

/// How a step recognises its result.
pub type Recognise = fn(&dyn Medium) -> Result<Presence, StepError>;

/// A released step that learned to recognise its result later: its own content, and with it its checksum, stays.
pub struct Recognised<S> {
    step: S,
    presence: Recognise,
}

impl<S: Step> Recognised<S> {
    /// The step with its recogniser.
    pub const fn new(step: S, presence: Recognise) -> Self {
        Self { step, presence }
    }
}

impl<S: Step> Step for Recognised<S> {
    fn version(&self) -> u32 {
        self.step.version()
    }

    fn name(&self) -> &str {
        self.step.name()
    }

    fn content(&self) -> &[&str] {
        self.step.content()
    }

    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        self.step.advance(medium, from)
    }

    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        (self.presence)(medium)
    }

    fn source(&self) -> Option<&str> {
        self.step.source()
    }

    fn reversible(&self) -> bool {
        self.step.reversible()
    }

    fn retreat(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        self.step.retreat(medium, from)
    }
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
