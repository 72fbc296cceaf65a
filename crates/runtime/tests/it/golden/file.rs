//! The text format of golden files (tests/golden/README.md): cases of an input block, `----`, and
//! what is expected. Blessing keeps every line but the expected ones.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Width that lines are wrapped to.
const LINE: usize = 116;
/// Runs of at least this many equal numbers are written `value*count`.
const RUN_MIN: usize = 4;

/// `key value value ...` lines by key.
#[derive(Debug, Default, Clone)]
pub(super) struct Fields(BTreeMap<String, Vec<String>>);

impl Fields {
    fn parse(lines: &[&str]) -> Fields {
        let mut fields = BTreeMap::new();
        let mut open = String::new();
        for line in lines {
            let mut words = line.split_whitespace().map(String::from);
            if !line.starts_with(' ') {
                open = words.next().expect("a field has a key");
                assert!(fields.insert(open.clone(), Vec::new()).is_none(), "field {open} stands twice");
            }
            fields.get_mut(&open).expect("a field before its continuation").extend(words);
        }
        Fields(fields)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn words(&self, key: &str) -> &[String] {
        self.0.get(key).unwrap_or_else(|| panic!("no field {key}"))
    }

    pub(super) fn word(&self, key: &str) -> &str {
        &self.words(key)[0]
    }

    /// The numbers of a field, `value*count` written out.
    pub(super) fn list<T: TryFrom<i64>>(&self, key: &str) -> Vec<T> {
        let number = |text: &str| text.parse::<i64>().unwrap_or_else(|e| panic!("{key}: {text}: {e}"));
        let narrow =
            |value: i64| T::try_from(value).unwrap_or_else(|_| panic!("{key}: {value} is too large"));
        self.words(key)
            .iter()
            .flat_map(|word| {
                let (value, count) = word.split_once('*').unwrap_or((word, "1"));
                std::iter::repeat_n(number(value), number(count) as usize).map(narrow)
            })
            .collect()
    }

    pub(super) fn one<T: TryFrom<i64>>(&self, key: &str) -> T {
        let mut list = self.list(key);
        assert_eq!(list.len(), 1, "{key} is one number");
        list.pop().expect("one")
    }
}

/// One case: fields in, lines out.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) name: &'a str,
    pub(super) input: Fields,
    lines: Vec<&'a str>,
    expected: Vec<&'a str>,
}

/// What a case computes, in order: key and words.
#[derive(Debug, Default)]
pub(super) struct Out(String);

impl Out {
    pub(super) fn list<T: Copy + Into<i64>>(mut self, key: &str, values: &[T]) -> Out {
        let mut words = Vec::new();
        let mut rest = values;
        while let [first, ..] = rest {
            let value: i64 = (*first).into();
            let run = rest.iter().take_while(|next| -> bool { (**next).into() == value }).count();
            if run >= RUN_MIN {
                words.push(format!("{value}*{run}"));
                rest = &rest[run..];
            } else {
                words.push(value.to_string());
                rest = &rest[1..];
            }
        }
        self.line(key, &words);
        self
    }

    pub(super) fn one(self, key: &str, value: impl Into<i64>) -> Out {
        self.text(key, &value.into().to_string())
    }

    pub(super) fn text(mut self, key: &str, value: &str) -> Out {
        self.line(key, &[value.to_string()]);
        self
    }

    fn line(&mut self, key: &str, words: &[String]) {
        let mut line = key.to_string();
        for word in words {
            if line.len() + 1 + word.len() > LINE {
                writeln!(self.0, "{line}").expect("a String takes all");
                line = " ".into();
            }
            line = line + " " + word;
        }
        writeln!(self.0, "{line}").expect("a String takes all");
    }
}

/// Reads the cases of a file; what stands outside of cases is comment.
pub(super) fn cases(text: &str) -> Vec<Case<'_>> {
    let blocks = text.split("\n\n").map(|block| block.lines().collect::<Vec<_>>());
    blocks
        .filter_map(|lines| {
            let name = lines.first()?.strip_prefix("case ")?;
            let border = lines.iter().position(|line| *line == "----").unwrap_or(lines.len());
            let expected = lines[(border + 1).min(lines.len())..].to_vec();
            let lines = lines[..border].to_vec();
            Some(Case { name, input: Fields::parse(&lines[1..]), lines, expected })
        })
        .collect()
}

/// Compares every case of `file` with what `compute` gives, or rewrites the file if
/// `LOCKSTEP_BLESS=1`. Gives the number of cases.
pub(super) fn check(file: &str, compute: impl Fn(&Case<'_>) -> Out) -> usize {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let cases = cases(&text);
    let comment: Vec<&str> = text.lines().take_while(|line| !line.starts_with("case ")).collect();
    let mut blessed = comment.join("\n").trim_end().to_string() + "\n";
    for case in &cases {
        let out = compute(case).0;
        write!(blessed, "\n{}\n----\n{out}", case.lines.join("\n")).expect("a String takes all");
    }
    if std::env::var("LOCKSTEP_BLESS").is_ok_and(|value| value == "1") {
        std::fs::write(&path, blessed).unwrap_or_else(|e| panic!("{path}: {e}"));
        return cases.len();
    }
    for case in &cases {
        let (got, expected) = (compute(case).0, case.expected.join("\n") + "\n");
        assert_eq!(got, expected, "{file}, case {:?}", case.name);
    }
    assert_eq!(blessed, text, "{file} is not in the form that LOCKSTEP_BLESS=1 writes");
    cases.len()
}
