//! JSON as text: printed with indents in the daemon's own order of fields.

/// Indents JSON by four spaces, as docker does; empty objects and lists stay
/// closed. What isn't JSON comes out somehow, never as a panic.
#[must_use]
pub fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut chars = text.chars().peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
            continue;
        }
        match c {
            ' ' | '\n' | '\t' | '\r' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| *c == '}' || *c == ']') {
                    out.push(end);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented() {
        assert_eq!(
            indent(r#"[{"b":1,"a":"x, {y}: \"","l":[],"o":{ },"n":[1,2]}]"#),
            "[\n    {\n        \"b\": 1,\n        \"a\": \"x, {y}: \\\"\",\n        \"l\": [],\n        \
             \"o\": {},\n        \"n\": [\n            1,\n            2\n        ]\n    }\n]"
        );
    }
}
