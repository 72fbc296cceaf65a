//! A step counter for templates.
//!
//! Every way to repeat work in Jinja ends at one of a few tags: `endfor` and `else` (one iteration), `endmacro` and
//! `endcall` (one call). A call of the counter is put in front of each of them, with the tag's own whitespace control, so
//! the output does not change. `range` pays for its length at once, which covers loops whose filter lets nothing through.
//! What this does not bound: the work of one filter on one large value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::{Error, ErrorKind};

/// Name of the counter inside a template.
pub(super) const FUNCTION: &str = "__lockstep_step";
/// Tags in front of which a step is counted.
const METERED: [&str; 4] = ["endfor", "else", "endmacro", "endcall"];

/// Steps left.
#[derive(Debug, Clone)]
pub(super) struct Tank(Arc<AtomicU64>);

impl Tank {
    pub(super) fn new(steps: u64) -> Self {
        Self(Arc::new(AtomicU64::new(steps)))
    }

    /// Takes `steps`; empty afterwards and an error if there were fewer.
    pub(super) fn burn(&self, steps: u64) -> Result<(), Error> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(steps));
        taken.map(drop).map_err(|_| {
            self.0.store(0, Ordering::Relaxed);
            Error::new(ErrorKind::InvalidOperation, "out of fuel")
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The template with the counter in it.
pub(super) fn metered(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 256);
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let len = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') => tag_len(rest, "}}"),
            Some(b'%') => {
                let len = tag_len(rest, "%}");
                let (word, mark) = tag_word(&rest[..len]);
                if METERED.contains(&word) {
                    out.push_str(&format!("{{%{mark} do {FUNCTION}() -%}}"));
                }
                if word == "raw" { raw_len(rest, len) } else { len }
            }
            _ => 1,
        };
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out.push_str(rest);
    out
}

/// Length of a tag including its end; an end inside a string literal does not count.
fn tag_len(tag: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in tag.bytes().enumerate().skip(2) {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, _) if tag.as_bytes()[at..].starts_with(end.as_bytes()) => return at + end.len(),
            (None, _) => {}
        }
    }
    tag.len()
}

/// First word of a `{% … %}` tag and its left whitespace mark.
fn tag_word(tag: &str) -> (&str, &str) {
    let inner = tag.get(2..).unwrap_or_default();
    let mark = if inner.starts_with(['-', '+']) { &inner[..1] } else { "" };
    let inner = inner[mark.len()..].trim_start();
    let end = inner.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(inner.len());
    (&inner[..end], mark)
}

/// From `{% raw %}` to the end of its `{% endraw %}`.
fn raw_len(text: &str, first_tag: usize) -> usize {
    let mut at = first_tag;
    while let Some(open) = text[at..].find("{%") {
        at += open;
        let len = tag_len(&text[at..], "%}");
        if tag_word(&text[at..at + len]).0 == "endraw" {
            return at + len;
        }
        at += 2;
    }
    text.len()
}
