//! Chat templates: messages to the one text that the model continues.
//!
//! Templates are Jinja programs that came with a model, so they come from strangers. They get no files, no clock (the date
//! is an argument) and no environment. The dialect is that of Hugging Face: `trim_blocks`, `lstrip_blocks`, `break` and
//! `continue`, `raise_exception`, `strftime_now`, Python's `tojson` and the Python string and dictionary methods that
//! templates use.
//!
//! # What is bounded, and what is not
//! Source, instructions ([`MAX_STEPS`], counted by the engine), recursion, output, and the bytes that filters, methods and
//! prints read or make ([`MAX_WORK_BYTES`]).
//! *Not* bounded, because the engine gives no hook there: strings and lists grown by operators (`x ~ x`, `x + x`; `x * n` stops at
//! 100 MB each), literal text that a `{% set %}` block or a macro repeats into a captured string, and comparisons
//! (`==`, `in`) of nested values. A template that means harm can still take memory and time by these; one that does not
//! cannot be made to by messages, because its text grows by constants per message. So a bundle from a stranger is to be
//! rendered where running out of memory harms nobody else.

mod python;
mod work;

use std::error::Error as _;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use serde::Serialize;

pub use work::MAX_WORK_BYTES;

/// Longest template source, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Instructions of one rendering. A long template spends some 200 on a message.
pub const MAX_STEPS: u64 = 1_000_000;
/// Nested macros and blocks.
pub const MAX_RECURSION: usize = 64;
/// Longest rendered text, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 4 << 20;

/// For models without a template: the contents, one per line, and nothing else. A base model simply continues them.
pub const DEFAULT_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}";

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a template sees besides the messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatOptions {
    /// Name of BOS; empty where the tokenizer adds it.
    pub bos_token: String,
    /// Name of EOS.
    pub eos_token: String,
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// What `strftime_now` calls now: seconds since 1970, UTC.
    pub now_unix_seconds: u64,
}

/// Why a template was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The source is too long.
    #[error("chat template: got {got} bytes, expected at most {max}")]
    TooLong {
        /// Bytes.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// The template does not parse.
    #[error("chat template does not parse: {0}")]
    Syntax(Error),
    /// The template called `raise_exception`.
    #[error("the chat template refuses these messages: {0}")]
    Raised(String),
    /// The template ran out of steps, work or output.
    #[error(
        "chat template: more than {MAX_STEPS} steps, {MAX_WORK_BYTES} bytes handled by filters, or {MAX_OUTPUT_BYTES} bytes of output"
    )]
    OutOfFuel,
    /// Anything else that went wrong while rendering.
    #[error("chat template failed: {0}")]
    Render(Error),
}

/// A template that parses.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// Parses a template in the Hugging Face dialect.
    pub fn new(source: &str) -> Result<Self, ChatError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatError::TooLong { got: source.len(), max: MAX_TEMPLATE_BYTES });
        }
        let mut environment = hugging_face_environment().map_err(ChatError::Syntax)?;
        environment.add_template_owned("chat", source.to_owned()).map_err(ChatError::Syntax)?;
        Ok(Self { environment, source: source.to_owned() })
    }

    /// The template of a model, or [`DEFAULT_TEMPLATE`].
    pub fn of_model(source: Option<&str>) -> Result<Self, ChatError> {
        Self::new(source.unwrap_or(DEFAULT_TEMPLATE))
    }

    /// The source as given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Messages to text.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        let now = options.now_unix_seconds;
        let values = context! {
            messages => Value::from(Serde(messages)),
            bos_token => &options.bos_token,
            eos_token => &options.eos_token,
            add_generation_prompt => options.add_generation_prompt,
            strftime_now => Value::from_function(move |format: &str| python::strftime(format, now)),
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template("chat").map_err(ChatError::Syntax)?;
        let mut output = Bounded(Vec::new());
        match template.render_captured_to(values, &mut output) {
            Ok(_) => Ok(String::from_utf8_lossy(&output.0).into_owned()),
            Err(error) if output.is_full() || is_out_of_fuel(&error) => Err(ChatError::OutOfFuel),
            Err(error) => Err(raised(&error).map_or_else(|| ChatError::Render(error), ChatError::Raised)),
        }
    }
}

fn hugging_face_environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(MAX_STEPS));
    work::meter(&mut environment);
    environment.add_function("raise_exception", raise_exception);
    Ok(environment)
}

/// Marks errors that the template raised on purpose.
const RAISED: &str = "raised by the template: ";

fn raise_exception(message: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn raised(error: &Error) -> Option<String> {
    error.detail()?.strip_prefix(RAISED).map(String::from)
}

/// An error inside a macro or a filter arrives as the source of another.
fn is_out_of_fuel(error: &Error) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if this.kind() == ErrorKind::OutOfFuel {
            return true;
        }
        error = this.source().and_then(|source| source.downcast_ref::<Error>());
    }
    false
}

/// Output that ends at [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl Bounded {
    fn is_full(&self) -> bool {
        self.0.len() >= MAX_OUTPUT_BYTES
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.0.resize(MAX_OUTPUT_BYTES, b' ');
            return Err(io::Error::other("chat template output is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
