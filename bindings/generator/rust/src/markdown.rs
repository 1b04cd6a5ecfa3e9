//! Comments of the C header as the Markdown that rustdoc expects.

/// Escapes what Markdown would read as markup, and fences indented lines (tables and formulas of the header), which
/// rustdoc would otherwise run together or take for Rust.
pub fn from_c_comment(comment: &str) -> String {
    let lines: Vec<&str> = comment.lines().map(str::trim_end).collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let base = lines.iter().filter(|l| !l.is_empty()).map(|l| indent(l)).min().unwrap_or(0);
    let mut out: Vec<String> = Vec::new();
    let mut fenced = false;
    for line in &lines {
        let block = !line.is_empty() && indent(line) >= base + 2;
        if block && !fenced {
            out.push("```text".into());
            fenced = true;
        } else if !block && fenced {
            out.push("```".into());
            fenced = false;
        }
        out.push(if fenced { line[base + 2..].into() } else { escape(line.trim_start()) });
    }
    if fenced {
        out.push("```".into());
    }
    out.join("\n").trim().to_owned()
}

fn escape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if matches!(c, '[' | ']' | '<' | '*') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::from_c_comment;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(from_c_comment(" [tokens, hidden], *out"), "\\[tokens, hidden\\], \\*out");
    }

    #[test]
    fn indented_lines_are_fenced() {
        assert_eq!(
            from_c_comment("a:\n\n  name  shape [E]\n\nb"),
            "a:\n\n```text\nname  shape [E]\n```\n\nb"
        );
    }
}
