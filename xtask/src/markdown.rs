//! Links, headings and code of Markdown documents.

/// The targets of links `[text](target)` outside code, with line numbers.
#[must_use]
pub fn links(document: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(document) {
        for (at, _) in line.match_indices("](") {
            let target: String = line[at + 2..].chars().take_while(|c| !matches!(c, ')' | ' ')).collect();
            links.push((number, target));
        }
    }
    links
}

/// What stands between backticks in a line, and the lines of fenced blocks, with line numbers.
#[must_use]
pub fn code(document: &str) -> Vec<(usize, String)> {
    let (mut found, mut fenced) = (Vec::new(), false);
    for (number, line) in (1..).zip(document.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push((number, line.to_owned()));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span.to_owned())));
        }
    }
    found
}

/// The anchors of a document's headings, as GitHub makes them.
#[must_use]
pub fn anchors(document: &str) -> Vec<String> {
    prose(document)
        .into_iter()
        .filter_map(|(_, line)| line.starts_with('#').then(|| anchor(line.trim_start_matches('#').trim())))
        .collect()
}

fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Lines outside fenced blocks, with code spans blanked except in headings.
fn prose(document: &str) -> Vec<(usize, String)> {
    let (mut lines, mut fenced) = (Vec::new(), false);
    for (number, line) in (1..).zip(document.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            lines.push((number, line.to_owned()));
        } else if !fenced {
            lines.push((number, line.split('`').step_by(2).collect::<Vec<_>>().join("``")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# A `b` heading: c!\nSee [this](x.md) and [that](y.md#part), not `[z](z.md)`.\n```\n[no](no.md)\nlockstep run\n```\n";

    #[test]
    fn links_outside_code_are_found() {
        assert_eq!(links(DOCUMENT), [(2, "x.md".to_owned()), (2, "y.md#part".to_owned())]);
    }

    #[test]
    fn anchors_are_those_of_github() {
        assert_eq!(anchors(DOCUMENT), ["a-b-heading-c"]);
    }

    #[test]
    fn code_is_what_stands_in_backticks_and_fences() {
        let code: Vec<String> = code(DOCUMENT).into_iter().map(|(_, text)| text).collect();
        assert_eq!(code, ["b", "[z](z.md)", "[no](no.md)", "lockstep run"]);
    }
}
