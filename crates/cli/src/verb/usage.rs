//! What `system df` counts.

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::system::Total;
use super::{images, ps, volume};
use crate::reference::Reference;
use crate::table::{Column, Table, unescape};
use crate::template::{Missing, Template, go_json};
use crate::units::{decimal_size, exact_size};
use crate::{out, time};

fn list<'a>(usage: &'a Value, key: &str) -> &'a [Value] {
    usage[key].as_array().map_or(&[], Vec::as_slice)
}

fn bytes(value: &Value) -> f64 {
    value.as_f64().filter(|n| *n >= 0.0).unwrap_or_default()
}

/// A row for each kind of objects, in docker's order.
pub fn totals(usage: &Value) -> Vec<Total> {
    vec![images(usage), containers(usage), volumes(usage), build_cache(usage)]
}

fn images(usage: &Value) -> Total {
    let images = list(usage, "Images");
    let is_used = |image: &&Value| image["Containers"].as_i64().unwrap_or_default() > 0;
    let own = |image: &Value| bytes(&image["Size"]) - bytes(&image["SharedSize"]);
    let size = bytes(&usage["LayersSize"]);
    let used: f64 = images.iter().filter(is_used).map(own).sum();
    Total {
        kind: "Images",
        count: images.len(),
        active: images.iter().filter(is_used).count(),
        size,
        reclaimable: (size - used).max(0.0),
    }
}

fn containers(usage: &Value) -> Total {
    let containers = list(usage, "Containers");
    let is_used =
        |c: &&Value| matches!(c["State"].as_str(), Some("running" | "paused" | "restarting"));
    let sizes = |used: bool| -> f64 {
        containers.iter().filter(|c| is_used(c) == used).map(|c| bytes(&c["SizeRw"])).sum()
    };
    Total {
        kind: "Containers",
        count: containers.len(),
        active: containers.iter().filter(is_used).count(),
        size: sizes(true) + sizes(false),
        reclaimable: sizes(false),
    }
}

fn volumes(usage: &Value) -> Total {
    let volumes = list(usage, "Volumes");
    let is_used = |v: &&Value| v["UsageData"]["RefCount"].as_i64().unwrap_or_default() > 0;
    let sizes = |used: bool| -> f64 {
        let of_kind = volumes.iter().filter(|v| is_used(v) == used);
        of_kind.map(|v| bytes(&v["UsageData"]["Size"])).sum()
    };
    Total {
        kind: "Local Volumes",
        count: volumes.len(),
        active: volumes.iter().filter(is_used).count(),
        size: sizes(true) + sizes(false),
        reclaimable: sizes(false),
    }
}

fn build_cache(usage: &Value) -> Total {
    let cache = list(usage, "BuildCache");
    let is_used = |c: &&Value| c["InUse"] == true;
    let sizes = |used: bool| -> f64 {
        cache.iter().filter(|c| is_used(c) == used).map(|c| bytes(&c["Size"])).sum()
    };
    Total {
        kind: "Build Cache",
        count: cache.len(),
        active: cache.iter().filter(is_used).count(),
        size: sizes(true) + sizes(false),
        reclaimable: sizes(false),
    }
}

/// Every object, in a table a kind, or as the template says.
///
/// # Errors
/// When the template is wrong.
pub fn verbose(usage: &Value, format: Option<&str>) -> Result<String> {
    let format = format.unwrap_or_default().trim();
    let template = format.strip_prefix("table ");
    let objects = Objects::of(usage, matches!(format, "" | "table") || template.is_some());
    match template.unwrap_or(format) {
        "" | "table" => objects.tables(build_cache(usage).size),
        // An object has no order here, and docker's is this one.
        "json" | "{{json .}}" => Ok(objects.json()),
        template => {
            let parsed = Template::parse(&unescape(template), Missing::Error)?;
            Ok(parsed.render(&objects.value())?)
        }
    }
}

type Row = Map<String, Value>;

/// The rows that templates range over, with the fields that the lists of
/// those objects have.
struct Objects {
    images: Vec<Row>,
    containers: Vec<Row>,
    volumes: Vec<Row>,
    build_cache: Vec<Row>,
}

impl Objects {
    fn of(usage: &Value, is_short: bool) -> Self {
        let mut cache: Vec<&Value> = list(usage, "BuildCache").iter().collect();
        let used = |c: &Value| c["LastUsedAt"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        cache.sort_by_cached_key(|c| (used(c), c["ID"].as_str().map(str::to_owned)));
        Self {
            images: list(usage, "Images").iter().map(|i| image_row(i, is_short)).collect(),
            containers: list(usage, "Containers").iter().map(|c| own_size(c, is_short)).collect(),
            volumes: list(usage, "Volumes").iter().map(volume::row).collect(),
            build_cache: cache.into_iter().map(|c| cache_row(c, is_short)).collect(),
        }
    }

    /// docker's names of the lists, in its order.
    fn named(&self) -> [(&'static str, &[Row]); 4] {
        [
            ("Images", &self.images),
            ("Containers", &self.containers),
            ("Volumes", &self.volumes),
            ("BuildCache", &self.build_cache),
        ]
    }

    fn value(&self) -> Value {
        let lists = self.named().map(|(name, rows)| (name.to_owned(), Value::from(rows.to_vec())));
        Value::Object(lists.into_iter().collect())
    }

    fn json(&self) -> String {
        let lists = self
            .named()
            .map(|(name, rows)| format!("\"{name}\":{}", go_json(&Value::from(rows.to_vec()))));
        format!("{{{}}}", lists.join(","))
    }

    fn tables(self, cache_size: f64) -> Result<String> {
        let images = table(
            &[
                ("Repository", "REPOSITORY"),
                ("Tag", "TAG"),
                ("ID", "IMAGE ID"),
                ("CreatedSince", "CREATED"),
                ("Size", "SIZE"),
                ("SharedSize", "SHARED SIZE"),
                ("UniqueSize", "UNIQUE SIZE"),
                ("Containers", "CONTAINERS"),
            ],
            self.images,
        )?;
        let containers = table(
            &[
                ("ID", "CONTAINER ID"),
                ("Image", "IMAGE"),
                ("Command", "COMMAND"),
                ("LocalVolumes", "LOCAL VOLUMES"),
                ("Size", "SIZE"),
                ("RunningFor", "CREATED"),
                ("Status", "STATUS"),
                ("Names", "NAMES"),
            ],
            self.containers,
        )?;
        let volumes =
            table(&[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")], self.volumes)?;
        let cache = table(
            &[
                ("ID", "CACHE ID"),
                ("CacheType", "CACHE TYPE"),
                ("Size", "SIZE"),
                ("CreatedSince", "CREATED"),
                ("LastUsedSince", "LAST USED"),
                ("UsageCount", "USAGE"),
                ("Shared", "SHARED"),
            ],
            self.build_cache,
        )?;
        Ok(format!(
            "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\n\
             Local Volumes space usage:\n\n{volumes}\nBuild cache usage: {}\n\n{cache}",
            exact_size(cache_size)
        ))
    }
}

fn table(columns: &[(&'static str, &'static str)], rows: Vec<Row>) -> Result<String> {
    let columns = columns.iter().map(|(field, heading)| Column { field, heading }).collect();
    Ok(Table { columns, rows }.render("")?)
}

/// An image once, by the first of its names.
fn image_row(image: &Value, is_short: bool) -> Row {
    let tag = image["RepoTags"][0].as_str().unwrap_or("<none>:<none>");
    let (repository, tag) = if tag.starts_with('<') {
        ("<none>".to_owned(), "<none>".to_owned())
    } else {
        let reference = Reference::parse(tag);
        (reference.familiar_name(), reference.tag)
    };
    images::row(image, repository, tag, String::new(), is_short)
}

/// A container with what it has written alone: the image is counted above.
fn own_size(container: &Value, is_short: bool) -> Row {
    let mut container = container.clone();
    container["SizeRootFs"] = Value::from(0);
    ps::row(&container, is_short)
}

fn cache_row(cache: &Value, is_short: bool) -> Row {
    let since = |key: &str| {
        let time = cache[key].as_str().and_then(time::unix);
        time.map_or_else(String::new, time::since)
    };
    let at = |key: &str| cache[key].as_str().map_or_else(String::new, time::go_style_of);
    let short = |id: &str| if is_short { out::short_id(id).to_owned() } else { id.to_owned() };
    let id = short(cache["ID"].as_str().unwrap_or_default());
    let parents = cache["Parents"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let parents = parents.collect::<Vec<_>>().join(", ");
    let row = json!({
        "ID": if cache["InUse"] == true { id + "*" } else { id },
        "Parent": short(&parents),
        "CacheType": cache["Type"],
        "Description": cache["Description"],
        "Size": decimal_size(bytes(&cache["Size"])),
        "CreatedAt": at("CreatedAt"),
        "CreatedSince": since("CreatedAt"),
        "LastUsedAt": at("LastUsedAt"),
        "LastUsedSince": since("LastUsedAt"),
        "UsageCount": cache["UsageCount"].to_string(),
        "InUse": (cache["InUse"] == true).to_string(),
        "Shared": (cache["Shared"] == true).to_string(),
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted() {
        let usage = json!({
            "LayersSize": 100,
            "Images": [{"Size": 60, "SharedSize": 0, "Containers": 1},
                {"Size": 40, "SharedSize": 0, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 5}, {"State": "exited", "SizeRw": 7}],
            "Volumes": [{"UsageData": {"RefCount": 0, "Size": 3}}],
            "BuildCache": null,
        });
        let totals = totals(&usage);
        let found: Vec<_> =
            totals.iter().map(|t| (t.count, t.active, t.size, t.reclaimable)).collect();
        assert_eq!(
            found,
            [(2, 1, 100.0, 40.0), (2, 1, 12.0, 7.0), (1, 0, 3.0, 3.0), (0, 0, 0.0, 0.0)]
        );
        assert!(verbose(&usage, None).unwrap().contains("VOLUME NAME"));
    }

    #[test]
    fn templates_see_the_rows_of_lists() {
        let cache = |id: &str, used: Value| json!({"ID": id, "Type": "regular", "InUse": true, "Size": 2000, "LastUsedAt": used});
        let usage = json!({
            "Images": [{"Id": "sha256:0123456789abcdef", "RepoTags": ["docker.io/library/a:b"],
                "Size": 60_000, "SharedSize": 0, "Containers": 1}],
            "Containers": [{"Names": ["/web"], "SizeRw": 5, "SizeRootFs": 60_000}],
            "Volumes": [{"Name": "v", "Labels": {"k": "<>"}, "UsageData": {"RefCount": 2, "Size": 1500}}],
            "BuildCache": [cache("new", json!("2025-01-02T00:00:00Z")), cache("old", Value::Null)],
        });
        for (template, want) in [
            ("{{range .Volumes}}{{.Name}} {{.Size}} {{.Links}}{{end}}", "v 1.5kB 2"),
            (r#"{{range .Volumes}}{{.Label "k"}}{{end}}"#, "<>"),
            ("{{range .Containers}}{{.Names}} {{.Size}} {{.Platform}}{{end}}", "web 5B <nil>"),
            ("{{range .Images}}{{.ID}} {{.Repository}}\\n{{end}}", "sha256:0123456789abcdef a\n"),
            ("table {{range .Images}}{{.ID}} {{.UniqueSize}}{{end}}", "0123456789ab 60kB"),
            ("{{range .BuildCache}}{{.ID}} {{end}}", "old* new* "),
            ("{{len .BuildCache}}", "2"),
        ] {
            assert_eq!(verbose(&usage, Some(template)).unwrap(), want, "{template}");
        }
        let text = verbose(&usage, Some("json")).unwrap();
        assert!(text.starts_with(r#"{"Images":[{"Containers":"1","#), "{text}");
        assert!(text.contains(r#""Labels":"k=\u003c\u003e""#), "{text}");
        for wrong in ["{{.LayersSize}}", "{{range .Volumes}}{{.UsageData}}{{end}}"] {
            assert!(verbose(&usage, Some(wrong)).is_err(), "{wrong}");
        }
    }
}
