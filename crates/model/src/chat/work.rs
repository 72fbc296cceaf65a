//! What the filters and methods of one rendering may read and make, in all.
//!
//! The engine's fuel counts instructions, and one instruction can be a filter over a large value: `x|indent(10 ** 9)`,
//! `x|replace('a', x)`, `(x * 9999)|list`. So every filter that copies, repeats or walks its input pays for it first, in
//! units of one byte, from one budget per rendering; so do printing a value and the string methods. Sequences are
//! lazy in this engine (`x + x`, `x * n` cost nothing until somebody walks them), so a sequence pays by its length before it
//! is walked, and a nested one pays for its text while it is counted, without being built.

use std::fmt::{self, Write as _};

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters};

/// Bytes that filters, methods and prints of one rendering may read or make: 16 times the longest output.
pub const MAX_WORK_BYTES: usize = 64 << 20;
/// What an element of a sequence costs: the size of a value.
const ELEMENT_BYTES: usize = 32;
/// Longest number in a format string: wider fields are refused.
const MAX_FORMAT_DIGITS: usize = 3;

/// Bytes spent so far by one rendering.
#[derive(Default)]
struct Spent(usize);

/// Pays for `bytes`; out of fuel if that is more than what is left.
pub(super) fn pay(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let spent = state.get_or_insert_extension(Spent::default());
    spent.0 = spent.0.saturating_add(bytes);
    if spent.0 > MAX_WORK_BYTES { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}

/// Puts every filter that can walk or grow a value behind its price.
pub(super) fn meter(environment: &mut Environment<'static>) {
    let walks = [
        ("batch", Value::from_function(filters::batch), grid as Price),
        ("capitalize", Value::from_function(filters::capitalize), walk),
        ("chain", Value::from_function(filters::chain), walk),
        ("count", Value::from_function(filters::length), walk),
        ("dictsort", Value::from_function(filters::dictsort), walk),
        ("e", Value::from_function(filters::escape), print),
        ("escape", Value::from_function(filters::escape), print),
        ("first", Value::from_function(filters::first), walk),
        ("format", Value::from_function(filters::format), format),
        ("groupby", Value::from_function(filters::groupby), walk),
        ("indent", Value::from_function(filters::indent), indent),
        ("items", Value::from_function(filters::items), walk),
        ("join", Value::from_function(filters::join), join),
        ("last", Value::from_function(filters::last), walk),
        ("length", Value::from_function(filters::length), walk),
        ("lines", Value::from_function(filters::lines), walk),
        ("list", Value::from_function(filters::list), walk),
        ("lower", Value::from_function(filters::lower), walk),
        ("map", Value::from_function(filters::map), walk),
        ("max", Value::from_function(filters::max), walk),
        ("min", Value::from_function(filters::min), walk),
        ("pprint", Value::from_function(filters::pprint), print),
        ("reject", Value::from_function(filters::reject), walk),
        ("rejectattr", Value::from_function(filters::rejectattr), walk),
        ("replace", Value::from_function(filters::replace), replace),
        ("reverse", Value::from_function(filters::reverse), walk),
        ("select", Value::from_function(filters::select), walk),
        ("selectattr", Value::from_function(filters::selectattr), walk),
        ("slice", Value::from_function(filters::slice), grid),
        ("sort", Value::from_function(filters::sort), walk),
        ("split", Value::from_function(filters::split), walk),
        ("string", Value::from_function(filters::string), print),
        ("sum", Value::from_function(filters::sum), walk),
        ("title", Value::from_function(filters::title), walk),
        ("tojson", Value::from_function(super::python::to_json), print),
        ("trim", Value::from_function(filters::trim), walk),
        ("unique", Value::from_function(filters::unique), walk),
        ("upper", Value::from_function(filters::upper), walk),
        ("zip", Value::from_function(filters::zip), walk),
    ];
    for (name, filter, price) in walks {
        environment.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            price(state, &args)?;
            filter.call(state, &args)
        });
    }
    environment.set_formatter(print_to);
}

/// Pays for the text of a value, then writes it.
fn print_to(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    pay_text(state, value)?;
    escape_formatter(out, state, value)
}

/// What a filter costs, given all its arguments.
type Price = fn(&mut State<'_, '_>, &[Value]) -> Result<(), Error>;

/// Every argument once: bytes of strings, elements of everything else.
fn walk(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    args.iter().try_for_each(|value| pay_walk(state, value))
}

/// The text of the first argument, nested values included.
fn print(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    args.first().map_or(Ok(()), |value| pay_text(state, value))
}

/// `batch(count)` and `slice(count)` fill up to `count`.
fn grid(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    walk(state, args)?;
    let count = args.get(1).and_then(Value::as_usize).unwrap_or(0);
    pay(state, count.saturating_mul(ELEMENT_BYTES))
}

/// One separator and the text of one element, for each element.
fn join(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    walk(state, args)?;
    let Some(values) = args.first().filter(|value| value.as_str().is_none()) else {
        // A string is joined character by character.
        let (text, joiner) = (args.first().and_then(Value::as_str), text_bytes(args.get(1)));
        return pay(state, text.map_or(0, str::len).saturating_mul(joiner.saturating_add(1)));
    };
    let (_, options): (&[Value], Kwargs) = from_args(args)?;
    let named: Option<Value> = options.peek("d")?;
    let joiner = text_bytes(args.get(1).filter(|value| !value.is_kwargs()).or(named.as_ref()));
    for value in values.try_iter()? {
        pay(state, joiner)?;
        pay_text(state, &value)?;
    }
    Ok(())
}

/// `width` blanks for each line.
fn indent(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    walk(state, args)?;
    let lines = args.first().and_then(Value::as_str).map_or(1, |text| text.split('\n').count());
    let (_, options): (&[Value], Kwargs) = from_args(args)?;
    let named: Option<Value> = options.peek("width")?;
    let width = args.get(1).filter(|value| !value.is_kwargs()).or(named.as_ref()).and_then(Value::as_usize);
    pay(state, width.unwrap_or(4).saturating_mul(lines.saturating_add(1)))
}

fn replace(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    walk(state, args)?;
    match args {
        [text, from, to, ..] => pay_replace(
            state,
            text.as_str().unwrap_or_default(),
            from.as_str().unwrap_or_default(),
            to.as_str().unwrap_or_default(),
        ),
        _ => Ok(()),
    }
}

/// The replacements that `text.replace(from, to)` writes.
pub(super) fn pay_replace(state: &mut State<'_, '_>, text: &str, from: &str, to: &str) -> Result<(), Error> {
    let matches = text.matches(from).count();
    pay(state, text.len().saturating_add(matches.saturating_mul(to.len())))
}

/// Fields of up to 999 characters; a width that is an argument (`%*d`) is refused like a wider one.
fn format(state: &mut State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    let text = args.first().and_then(Value::as_str).unwrap_or_default();
    let too_wide = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > MAX_FORMAT_DIGITS);
    if too_wide || text.contains('*') {
        return Err(Error::new(ErrorKind::InvalidOperation, "format: got a field wider than 999 characters"));
    }
    pay(state, text.len().saturating_add(1_000 * text.matches('%').count()))?;
    args.iter().skip(1).try_for_each(|value| pay_text(state, value))
}

/// Bytes of a string, elements of anything else that can be walked.
pub(super) fn pay_walk(state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return pay(state, text.len());
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    match value.len() {
        Some(len) => pay(state, len.saturating_mul(ELEMENT_BYTES)),
        None => value.try_iter()?.try_for_each(|_| pay(state, ELEMENT_BYTES)),
    }
}

/// The text of a value, counted and not built.
fn pay_text(state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    pay_walk(state, value)?;
    if value.as_str().is_some() {
        return Ok(());
    }
    let spent = state.get_or_insert_extension(Spent::default()).0;
    let mut count = Count { bytes: 0, max: MAX_WORK_BYTES.saturating_sub(spent) };
    let fits = write!(count, "{value}").is_ok();
    pay(state, if fits { count.bytes } else { MAX_WORK_BYTES })
}

fn text_bytes(value: Option<&Value>) -> usize {
    value.and_then(Value::as_str).map_or(0, str::len)
}

/// A writer that only counts, and fails above its maximum.
struct Count {
    bytes: usize,
    max: usize,
}

impl fmt::Write for Count {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > self.max { Err(fmt::Error) } else { Ok(()) }
    }
}
