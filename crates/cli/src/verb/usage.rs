//! What `system df` counts.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::ps::labels;
use super::system::Total;
use crate::reference::Reference;
use crate::table::{Column, Table};
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

/// Every object, in a table a kind.
///
/// # Errors
/// When the template is wrong.
pub fn verbose(usage: &Value, format: Option<&str>) -> Result<String> {
    match format {
        None | Some("" | "table") => {}
        Some("json") => return Ok(format!("{usage}\n")),
        Some(template) => {
            let parsed =
                crate::template::Template::parse(template, crate::template::Missing::NoValue)?;
            return Ok(parsed.render(usage)? + "\n");
        }
    }
    let table = |columns: &[(&'static str, &'static str)], rows: Vec<Value>| {
        let columns = columns.iter().map(|(field, heading)| Column { field, heading }).collect();
        let rows = rows
            .into_iter()
            .map(|row| match row {
                Value::Object(map) => map,
                _ => Map::new(),
            })
            .collect();
        Table { columns, rows }.render("")
    };
    let images = table(
        &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("Created", "CREATED"),
            ("Size", "SIZE"),
            ("Shared", "SHARED SIZE"),
            ("Unique", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
        ],
        list(usage, "Images").iter().map(image_row).collect(),
    )?;
    let containers = table(
        &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("Volumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("Created", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ],
        list(usage, "Containers").iter().map(container_row).collect(),
    )?;
    let volumes = table(
        &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
        list(usage, "Volumes").iter().map(volume_row).collect(),
    )?;
    let cache = table(
        &[
            ("ID", "CACHE ID"),
            ("Type", "CACHE TYPE"),
            ("Size", "SIZE"),
            ("Created", "CREATED"),
            ("Used", "LAST USED"),
            ("Count", "USAGE"),
            ("Shared", "SHARED"),
        ],
        list(usage, "BuildCache").iter().map(cache_row).collect(),
    )?;
    Ok(format!(
        "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\n\
         Local Volumes space usage:\n\n{volumes}\nBuild cache usage: {}\n\n{cache}",
        exact_size(build_cache(usage).size)
    ))
}

fn image_row(image: &Value) -> Value {
    let tag = image["RepoTags"][0].as_str().unwrap_or("<none>:<none>");
    let (repository, tag) = if tag.starts_with('<') {
        ("<none>".to_owned(), "<none>".to_owned())
    } else {
        let reference = Reference::parse(tag);
        (reference.familiar_name(), reference.tag)
    };
    let (size, shared) = (bytes(&image["Size"]), bytes(&image["SharedSize"]));
    json!({
        "Repository": repository,
        "Tag": tag,
        "ID": out::short_id(image["Id"].as_str().unwrap_or_default()),
        "Created": time::since(image["Created"].as_i64().unwrap_or_default()),
        "Size": decimal_size(size),
        "Shared": exact_size(shared),
        "Unique": exact_size(size - shared),
        "Containers": image["Containers"].to_string(),
    })
}

fn container_row(container: &Value) -> Value {
    let word = |key: &str| container[key].as_str().unwrap_or_default().to_owned();
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    let name = container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/');
    json!({
        "ID": out::short_id(&word("Id")),
        "Image": word("Image"),
        "Command": format!("\"{}\"", out::ellipsis(&word("Command"), 20)),
        "Volumes": mounts.filter(|m| m["Type"] == "volume").count().to_string(),
        "Size": decimal_size(bytes(&container["SizeRw"])),
        "Created": time::since(container["Created"].as_i64().unwrap_or_default()),
        "Status": word("Status"),
        "Names": name,
        "Labels": labels(&container["Labels"]),
    })
}

fn cache_row(cache: &Value) -> Value {
    let since = |key: &str| {
        let time = cache[key].as_str().and_then(time::unix);
        time.map_or_else(String::new, time::since)
    };
    json!({
        "ID": out::ellipsis(cache["ID"].as_str().unwrap_or_default(), 12),
        "Type": cache["Type"],
        "Size": decimal_size(bytes(&cache["Size"])),
        "Created": since("CreatedAt"),
        "Used": since("LastUsedAt"),
        "Count": cache["UsageCount"].to_string(),
        "Shared": (cache["Shared"] == true).to_string(),
    })
}

fn volume_row(volume: &Value) -> Value {
    json!({
        "Name": volume["Name"],
        "Links": volume["UsageData"]["RefCount"].to_string(),
        "Size": exact_size(bytes(&volume["UsageData"]["Size"])),
    })
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
}
