//! From text to a tree.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Text(String),
    Print(Pipeline),
    Assign(String, Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range { variables: Vec<String>, over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands joined by `|`: each gets the one before as its last argument.
pub type Pipeline = Vec<Command>;

/// A term with arguments: a function's name first, or a single value.
pub type Command = Vec<Term>;

/// A value or a function's name.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Text(String),
    Integer(i64),
    Bool(bool),
    Nil,
    Function(String),
    Group(Pipeline, Vec<String>),
}

const FUNCTIONS: &[&str] = &[
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "split", "table", "title", "truncate", "upper",
];

fn error<T>(message: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError(message.into()))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Text(String),
    Integer(i64),
    Word(String),
    /// A field's name, and whether it follows what is before it directly.
    Field(String, bool),
    Variable(String),
    Sign(char),
    Define,
}

enum Part {
    Text(String),
    Action(Vec<Token>),
}

/// Parses a whole template.
pub fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let parts = split(text)?;
    let mut parser = Parser { parts: parts.into_iter() };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(nodes),
        Some(end) => error(format!("unexpected {{{{{}}}}}", end.word)),
    }
}

/// Cuts the text at the actions and applies the trim markers.
fn split(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let (mut rest, mut trim) = (text, false);
    while let Some(start) = rest.find("{{") {
        let (mut before, action) = (&rest[..start], &rest[start + 2..]);
        if trim {
            before = before.trim_start();
        }
        let Some(end) = action_end(action) else { return error("unclosed action") };
        let (mut inside, after) = (&action[..end], &action[end + 2..]);
        if inside.starts_with("- ") {
            before = before.trim_end();
            inside = &inside[1..];
        }
        trim = inside.ends_with(" -");
        if trim {
            inside = &inside[..inside.len() - 1];
        }
        parts.push(Part::Text(before.to_owned()));
        let is_comment = inside.trim().starts_with("/*") && inside.trim().ends_with("*/");
        if !is_comment {
            parts.push(Part::Action(tokens(inside)?));
        }
        rest = after;
    }
    parts.push(Part::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(parts)
}

/// Where the action ends, not counting braces in strings.
fn action_end(action: &str) -> Option<usize> {
    let bytes = action.as_bytes();
    let (mut i, mut quote) = (0, 0u8);
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if quote == b'"' => i += 1,
            b if quote != 0 && b == quote => quote = 0,
            b @ (b'"' | b'`') if quote == 0 => quote = b,
            b'}' if quote == 0 && bytes.get(i + 1) == Some(&b'}') => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut attached = false;
    while let Some(&c) = chars.peek() {
        let follows = std::mem::replace(&mut attached, !c.is_whitespace());
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '"' | '`' => tokens.push(Token::Text(quoted(&mut chars)?)),
            '.' => {
                chars.next();
                tokens.push(Token::Field(word(&mut chars), follows));
            }
            '$' => {
                chars.next();
                tokens.push(Token::Variable(word(&mut chars)));
            }
            ':' => {
                chars.next();
                if chars.next() != Some('=') {
                    return error("unexpected ':'");
                }
                tokens.push(Token::Define);
            }
            '(' | ')' | '|' | ',' => {
                chars.next();
                tokens.push(Token::Sign(c));
            }
            '-' | '0'..='9' => {
                chars.next();
                let digits = format!("{c}{}", word(&mut chars));
                match digits.parse() {
                    Ok(number) => tokens.push(Token::Integer(number)),
                    Err(_) => return error(format!("bad number {digits:?}")),
                }
            }
            c if c.is_alphabetic() || c == '_' => tokens.push(Token::Word(word(&mut chars))),
            c => return error(format!("unexpected {c:?}")),
        }
    }
    Ok(tokens)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn word(chars: &mut Chars<'_>) -> String {
    let mut out = String::new();
    while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
        out.push(c);
    }
    out
}

fn quoted(chars: &mut Chars<'_>) -> Result<String, TemplateError> {
    let quote = chars.next();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == quote => return Ok(out),
            '\\' if quote == Some('"') => out.push(match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(other) => other,
                None => break,
            }),
            c => out.push(c),
        }
    }
    error("unterminated string")
}

/// `end`, or `else` with what follows it.
struct End {
    word: String,
    rest: Vec<Token>,
}

struct Parser {
    parts: std::vec::IntoIter<Part>,
}

impl Parser {
    /// Nodes up to an `end` or `else` of the block around them.
    fn block(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(part) = self.parts.next() {
            match part {
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => nodes.push(Node::Text(text)),
                Part::Action(tokens) => match tokens.split_first() {
                    Some((Token::Word(w), rest)) if w == "end" || w == "else" => {
                        return Ok((nodes, Some(End { word: w.clone(), rest: rest.to_vec() })));
                    }
                    Some((Token::Word(w), rest)) if w == "if" => nodes.push(self.condition(rest)?),
                    Some((Token::Word(w), rest)) if w == "with" => {
                        let pipeline = pipeline(rest)?;
                        let (body, otherwise) = self.branches()?;
                        nodes.push(Node::With(pipeline, body, otherwise));
                    }
                    Some((Token::Word(w), rest)) if w == "range" => nodes.push(self.range(rest)?),
                    Some((Token::Variable(name), [Token::Define, rest @ ..])) => {
                        nodes.push(Node::Assign(name.clone(), pipeline(rest)?));
                    }
                    _ => nodes.push(Node::Print(pipeline(&tokens)?)),
                },
            }
        }
        Ok((nodes, None))
    }

    fn condition(&mut self, tokens: &[Token]) -> Result<Node, TemplateError> {
        let test = pipeline(tokens)?;
        let (body, otherwise) = self.branches()?;
        Ok(Node::If(test, body, otherwise))
    }

    /// The body up to `else` or `end`, and what stands between the two.
    fn branches(&mut self) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let (body, end) = self.block()?;
        match end {
            Some(End { word, .. }) if word == "end" => Ok((body, Vec::new())),
            Some(End { rest, .. }) => match rest.split_first() {
                Some((Token::Word(w), test)) if w == "if" => {
                    let nested = self.condition(test)?;
                    Ok((body, vec![nested]))
                }
                Some(_) => error("unexpected words after else"),
                None => match self.block()? {
                    (otherwise, Some(End { word, .. })) if word == "end" => Ok((body, otherwise)),
                    _ => error("missing {{end}}"),
                },
            },
            None => error("missing {{end}}"),
        }
    }

    fn range(&mut self, tokens: &[Token]) -> Result<Node, TemplateError> {
        let (variables, rest) = match tokens {
            [
                Token::Variable(k),
                Token::Sign(','),
                Token::Variable(v),
                Token::Define,
                rest @ ..,
            ] => (vec![k.clone(), v.clone()], rest),
            [Token::Variable(v), Token::Define, rest @ ..] => (vec![v.clone()], rest),
            rest => (Vec::new(), rest),
        };
        let over = pipeline(rest)?;
        let (body, otherwise) = self.branches()?;
        Ok(Node::Range { variables, over, body, otherwise })
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut rest = tokens;
    let pipeline = commands(&mut rest)?;
    if rest.is_empty() { Ok(pipeline) } else { error("unexpected ')'") }
}

fn commands(rest: &mut &[Token]) -> Result<Pipeline, TemplateError> {
    let mut pipeline = Vec::new();
    loop {
        let mut command = Vec::new();
        while let Some(term) = term(rest, command.is_empty())? {
            command.push(term);
        }
        if command.is_empty() {
            return error("missing value for command");
        }
        pipeline.push(command);
        match rest.split_first() {
            Some((Token::Sign('|'), after)) => *rest = after,
            _ => return Ok(pipeline),
        }
    }
}

fn term(rest: &mut &[Token], first: bool) -> Result<Option<Term>, TemplateError> {
    let Some((token, after)) = rest.split_first() else { return Ok(None) };
    let term = match token {
        Token::Sign(')' | '|') => return Ok(None),
        Token::Sign('(') => {
            *rest = after;
            let group = commands(rest)?;
            let Some((Token::Sign(')'), after)) = rest.split_first() else {
                return error("missing ')'");
            };
            *rest = after;
            return Ok(Some(Term::Group(group, path(rest))));
        }
        Token::Field(name, _) => {
            let first = (!name.is_empty()).then(|| name.clone());
            *rest = after;
            let path = first.into_iter().chain(path(rest)).collect();
            return Ok(Some(Term::Field(path)));
        }
        Token::Variable(name) => {
            *rest = after;
            return Ok(Some(Term::Variable(name.clone(), path(rest))));
        }
        Token::Text(text) => Term::Text(text.clone()),
        Token::Integer(number) => Term::Integer(*number),
        Token::Word(w) => match w.as_str() {
            "true" => Term::Bool(true),
            "false" => Term::Bool(false),
            "nil" => Term::Nil,
            w if FUNCTIONS.contains(&w) && first => Term::Function(w.to_owned()),
            w => return error(format!("function {w:?} not defined")),
        },
        Token::Sign(c) => return error(format!("unexpected {c:?}")),
        Token::Define => return error("unexpected ':='"),
    };
    *rest = after;
    Ok(Some(term))
}

/// The fields that follow one another directly: `.A.B`.
fn path(rest: &mut &[Token]) -> Vec<String> {
    let mut path = Vec::new();
    while let Some((Token::Field(name, true), after)) = rest.split_first() {
        path.push(name.clone());
        *rest = after;
    }
    path
}
