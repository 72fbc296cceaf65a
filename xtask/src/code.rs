//! Rust sources without comments and texts, and what stands in them.
//!
//! A small scanner, not a parser: it knows where comments, texts and characters end, which is all
//! that is needed to ask which words and numbers a file contains.

/// `source` with comments, texts and character literals replaced by spaces; lines stay.
#[must_use]
pub fn code_only(source: &str) -> String {
    let mut scanner = Scanner { rest: source, out: String::with_capacity(source.len()), before: ' ' };
    while !scanner.rest.is_empty() {
        scanner.next();
    }
    scanner.out
}

struct Scanner<'a> {
    rest: &'a str,
    out: String,
    before: char,
}

impl Scanner<'_> {
    fn next(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.blank(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.blank(block_comment(rest));
        } else if let Some(length) = text_literal(rest).filter(|_| !is_word(self.before)) {
            self.blank(length);
        } else if let Some(length) = char_literal(rest) {
            self.blank(length);
        } else {
            let first = rest.chars().next().expect("rest is not empty");
            self.out.push(first);
            self.before = first;
            self.rest = &rest[first.len_utf8()..];
        }
    }

    fn blank(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.before = ' ';
        self.rest = rest;
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the text, byte or raw text literal at the beginning of `text`.
fn text_literal(text: &str) -> Option<usize> {
    let after_prefix = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - after_prefix.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = after_prefix.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let content = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = content.find(&end).map_or(content.len(), |at| at + end.len());
        return Some(text.len() - content.len() + length);
    }
    let content = after_prefix.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            '"' if !escaped => return Some(prefix + 1 + at + 1),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Some(text.len())
}

/// Length of the character literal at the beginning of `text`; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let content = text.strip_prefix('\'')?;
    let mut chars = content.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next();
        return content.char_indices().skip(2).find(|(_, c)| *c == '\'').map(|(at, _)| at + 2);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 2)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words and numbers of blanked code with their line numbers. A number keeps its fraction and
/// exponent: `1.5`, `2e-3`, but `0..4` is two numbers and `x.0.1` has none.
#[must_use]
pub fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let chars: Vec<char> = line.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            if !is_word(chars[at]) {
                at += 1;
                continue;
            }
            let start = at;
            let numeric = chars[at].is_ascii_digit();
            let field = start > 0 && chars[start - 1] == '.' && (start < 2 || chars[start - 2] != '.');
            at = word_end(&chars, at);
            if numeric && !field {
                at = number_end(&chars, start, at);
            } else if numeric {
                continue;
            }
            tokens.push((number, chars[start..at].iter().collect()));
        }
    }
    tokens
}

fn word_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && is_word(chars[at]) {
        at += 1;
    }
    at
}

/// Where the number that begins at `start` ends, its integer part ending at `at`.
fn number_end(chars: &[char], start: usize, mut at: usize) -> usize {
    let next = |at: usize| chars.get(at).copied().unwrap_or(' ');
    if next(at) == '.' && next(at + 1) != '.' && !(next(at + 1).is_alphabetic() || next(at + 1) == '_') {
        at = word_end(chars, at + 1);
    }
    let exponent = matches!(chars[at - 1], 'e' | 'E') && !chars[start..].starts_with(&['0', 'x']);
    if exponent && matches!(next(at), '+' | '-') && next(at + 1).is_ascii_digit() {
        at = word_end(chars, at + 1);
    }
    at
}

/// Whether a token is a float type or literal.
#[must_use]
pub fn is_float(token: &str) -> bool {
    if matches!(token, "f16" | "f32" | "f64" | "f128") {
        return true;
    }
    let decimal = token.starts_with(|c: char| c.is_ascii_digit())
        && !matches!(token.get(..2), Some("0x" | "0b" | "0o"));
    let digits = token.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
    decimal && (digits.starts_with(['.', 'e', 'E']) || digits.starts_with("f32") || digits.starts_with("f64"))
}

/// Modules and items of `std` (or `core`) that blanked code names: `std::time::Instant` gives
/// `time`, `std::{fs, thread::spawn}` gives `fs` and `thread`.
#[must_use]
pub fn std_modules(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("std::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let path = &code[at + "std::".len()..];
        match path.strip_prefix('{') {
            None => found.push((line, first_word(path))),
            Some(group) => found.extend(group_heads(group).into_iter().map(|head| (line, head))),
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

/// The first words of the members of a `{…}` group whose opening brace was read.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut fresh) = (1, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if is_word(c) && fresh => {
                heads.push(first_word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(source: &str) -> Vec<String> {
        let code = code_only(source);
        tokens(&code).into_iter().map(|(_, token)| token).filter(|token| is_float(token)).collect()
    }

    #[test]
    fn comments_texts_and_characters_are_blanked_and_lines_stay() {
        let source =
            "a /* x /* y */ z */ b // c\n\"d \\\" e\" r#\"f \" g\"# b\"h\" 'i' '\\'' '\\u{1F600}' &'j k 'l";
        let code = code_only(source);
        let words: Vec<_> = tokens(&code).into_iter().map(|(line, word)| format!("{line}{word}")).collect();
        assert_eq!(words, ["1a", "1b", "2j", "2k", "2l"]);
    }

    #[test]
    fn floats_are_found_and_integers_are_not() {
        let found = floats("let a: f32 = 1.5; 2e3; 2e-3; 1.; 3f64; 7_0.0; x as f64; (1.0, 2)");
        assert_eq!(found, ["f32", "1.5", "2e3", "2e-3", "1.", "3f64", "7_0.0", "f64", "1.0"]);
        let none = floats(
            "0..4; 0..=9; x.0.1; x.0; 1.max(2); 0x1e5; 1usize; 1isize; 0xf32; my_f32; 'f'; \"1.5\"; // 1.5 f32",
        );
        assert_eq!(none, [""; 0]);
    }

    #[test]
    fn modules_of_std_are_found_in_every_form() {
        let code = code_only(
            "use std::time::Instant;\nuse std::{fs, io::{Read, Write}, thread::spawn};\nmystd::net; // std::net",
        );
        let found: Vec<_> =
            std_modules(&code).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
        assert_eq!(found, ["1 time", "2 fs", "2 io", "2 thread"]);
    }
}
