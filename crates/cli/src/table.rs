//! Tables and `--format`: rows with named columns, printed as docker does.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::template::{Missing, Template, TemplateError, go_json};

/// The narrowest column of a listing.
const LEAST_WIDTH: usize = 10;

/// A column: the field that templates use, and the heading.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// `.ID` in a template.
    pub field: &'static str,
    /// `CONTAINER ID`.
    pub heading: &'static str,
}

/// Rows that can be printed in any form that the user asks for.
#[derive(Debug, Default)]
pub struct Table {
    /// The columns of the default form, in order.
    pub columns: Vec<Column>,
    /// Each row has at least the columns' fields, as text.
    pub rows: Vec<Map<String, Value>>,
}

impl Table {
    /// Renders the table: `format` is empty or `table` (the default form),
    /// `json` (a row a line), `table TEMPLATE` or `TEMPLATE`.
    ///
    /// # Errors
    /// When the template is wrong.
    pub fn render(&self, format: &str) -> Result<String, TemplateError> {
        match format.trim() {
            "" | "table" => Ok(self.default_form()),
            "json" => {
                Ok(self.rows.iter().map(|row| go_json(&Value::from(row.clone())) + "\n").collect())
            }
            template => match template.strip_prefix("table ") {
                Some(template) => self.with_headings(template),
                None => self.each(template),
            },
        }
    }

    fn default_form(&self) -> String {
        let mut cells = vec![self.columns.iter().map(|c| c.heading.to_owned()).collect::<Vec<_>>()];
        let text =
            |row: &Map<String, Value>, c: &Column| row.get(c.field).map_or(String::new(), plain);
        cells.extend(
            self.rows.iter().map(|row| self.columns.iter().map(|c| text(row, c)).collect()),
        );
        align(&cells, LEAST_WIDTH)
    }

    fn with_headings(&self, template: &str) -> Result<String, TemplateError> {
        let template = unescape(template);
        let parsed = Template::parse(&template, Missing::Error)?;
        let mut headings = self.rows.first().cloned().unwrap_or_default();
        for (field, value) in &mut headings {
            *value = Value::from(heading(field));
        }
        for column in &self.columns {
            headings.insert(column.field.to_owned(), Value::from(column.heading));
        }
        headings.insert("Label".to_owned(), Value::from(true));
        let mut lines = vec![parsed.render(&Value::from(headings))?];
        for row in &self.rows {
            lines.push(parsed.render(&Value::from(row.clone()))?);
        }
        let cells: Vec<Vec<String>> =
            lines.iter().map(|l| l.split('\t').map(str::to_owned).collect()).collect();
        Ok(align(&cells, LEAST_WIDTH))
    }

    fn each(&self, template: &str) -> Result<String, TemplateError> {
        let parsed = Template::parse(&unescape(template), Missing::Error)?;
        self.rows.iter().map(|row| Ok(parsed.render(&Value::from(row.clone()))? + "\n")).collect()
    }
}

/// docker's heading of a field that is in no default form.
fn heading(field: &str) -> String {
    let known = [
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("RunningFor", "CREATED"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("VirtualSize", "SIZE"),
        ("CPUPerc", "CPU %"),
        ("MemPerc", "MEM %"),
    ];
    let found = known.iter().find(|(name, _)| *name == field);
    found.map_or_else(|| field.to_uppercase(), |(_, heading)| (*heading).to_owned())
}

/// The shell hands `\t` and `\n` on as two characters.
pub fn unescape(template: &str) -> String {
    template.replace("\\t", "\t").replace("\\n", "\n")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Columns padded as Go's tabwriter does with docker's settings: at least
/// `least` wide, three spaces between them, the last one as it is.
pub fn align(cells: &[Vec<String>], least: usize) -> String {
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        let lengths = cells.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count() + 3);
        lengths.max().unwrap_or(0).max(least)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in cells {
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let is_last = i + 1 == row.len();
            let width = if is_last { 0 } else { *width };
            let _ = write!(out, "{cell:<width$}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Table {
        let row = |v: Value| v.as_object().unwrap().clone();
        Table {
            columns: vec![
                Column { field: "ID", heading: "CONTAINER ID" },
                Column { field: "Names", heading: "NAMES" },
            ],
            rows: vec![row(json!({"ID": "abc", "Names": "web", "Size": "0B"}))],
        }
    }

    #[test]
    fn every_form() {
        let t = table();
        assert_eq!(t.render("").unwrap(), "CONTAINER ID   NAMES\nabc            web\n");
        assert_eq!(t.render("{{.ID}}\\t{{.Names}}").unwrap(), "abc\tweb\n");
        assert_eq!(
            t.render("table {{.Names}}\\t{{.Size}}").unwrap(),
            "NAMES     SIZE\nweb       0B\n"
        );
        assert_eq!(
            t.render("json").unwrap(),
            "{\"ID\":\"abc\",\"Names\":\"web\",\"Size\":\"0B\"}\n"
        );
        assert!(t.render("{{.Nope}}").is_err());
    }
}
