//! `--mount` and `-v`.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::units::parse_size;

/// `-v`: an anonymous volume is a target alone; all else is a bind in the
/// API's sense, whose source is a name or a path made absolute.
pub enum Volume {
    /// The target.
    Anonymous(String),
    /// `SOURCE:TARGET[:OPTIONS]`.
    Bind(String),
}

/// Reads one `-v`. A source that begins with a dot or is `~`-free and relative
/// is a name unless it has a slash; `.` and `..` are relative to here.
pub fn volume(text: &str) -> Result<Volume> {
    let Some((source, rest)) = text.split_once(':') else {
        if !text.starts_with('/') {
            bail!("invalid volume {text:?}: the target must be an absolute path");
        }
        return Ok(Volume::Anonymous(text.to_owned()));
    };
    if source.starts_with('.') {
        let absolute = std::path::absolute(source)?;
        return Ok(Volume::Bind(format!("{}:{rest}", absolute.display())));
    }
    Ok(Volume::Bind(text.to_owned()))
}

/// Reads one `--mount`.
pub fn mount(text: &str) -> Result<Value> {
    let mut mount = json!({"Type": "volume"});
    let mut options = Map::new();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let key = key.trim().to_ascii_lowercase();
        set(&mut mount, &mut options, &key, value.trim(), field)?;
    }
    let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
    let section = match kind.as_str() {
        "bind" => "BindOptions",
        "volume" => "VolumeOptions",
        "tmpfs" => "TmpfsOptions",
        other => bail!("unsupported mount type {other:?}: bind, volume or tmpfs"),
    };
    if mount["Target"].is_null() {
        bail!("invalid argument {text:?} for \"--mount\" flag: target is required");
    }
    for (name, value) in options {
        let Some((of, field)) = name.split_once('.') else { continue };
        if of != section {
            bail!("cannot mix '{}' with mount type '{kind}'", of);
        }
        mount[section][field] = value;
    }
    Ok(mount)
}

fn set(
    mount: &mut Value,
    options: &mut Map<String, Value>,
    key: &str,
    value: &str,
    field: &str,
) -> Result<()> {
    let flag = || match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => bail!("invalid value for {key}: {value}"),
    };
    let mut option = |name: &str, value: Value| {
        options.insert(name.to_owned(), value);
    };
    match key {
        "type" => mount["Type"] = value.to_ascii_lowercase().into(),
        "source" | "src" => {
            let is_relative = value.starts_with("./") || value.starts_with("../") || value == ".";
            mount["Source"] = if is_relative {
                std::path::absolute(value)?.display().to_string().into()
            } else {
                value.into()
            };
        }
        "target" | "destination" | "dst" => mount["Target"] = value.into(),
        "readonly" | "ro" => mount["ReadOnly"] = flag()?.into(),
        "consistency" => mount["Consistency"] = value.into(),
        "bind-propagation" => option("BindOptions.Propagation", value.into()),
        "bind-nonrecursive" => option("BindOptions.NonRecursive", flag()?.into()),
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => option("BindOptions.NonRecursive", true.into()),
            "writable" => option("BindOptions.ReadOnlyNonRecursive", true.into()),
            "readonly" => option("BindOptions.ReadOnlyForceRecursive", true.into()),
            _ => bail!("invalid value for bind-recursive: {value}"),
        },
        "bind-create-src" => option("BindOptions.CreateMountpoint", flag()?.into()),
        "volume-nocopy" => option("VolumeOptions.NoCopy", flag()?.into()),
        "volume-subpath" => option("VolumeOptions.Subpath", value.into()),
        "volume-driver" => nested(options, "VolumeOptions.DriverConfig", "Name", value),
        "volume-label" | "volume-opt" => {
            let (k, v) = value.split_once('=').unwrap_or((value, ""));
            if key == "volume-label" {
                nested(options, "VolumeOptions.Labels", k, v);
            } else {
                let config =
                    options.entry("VolumeOptions.DriverConfig").or_insert_with(|| json!({}));
                config["Options"][k] = v.into();
            }
        }
        "tmpfs-size" => {
            option("TmpfsOptions.SizeBytes", parse_size(value).map_err(anyhow::Error::msg)?.into())
        }
        "tmpfs-mode" => match u32::from_str_radix(value, 8) {
            Ok(mode) => option("TmpfsOptions.Mode", mode.into()),
            Err(_) => bail!("invalid value for {key}: {value}"),
        },
        _ => bail!("unexpected key '{key}' in '{field}'"),
    }
    Ok(())
}

fn nested(options: &mut Map<String, Value>, name: &str, key: &str, value: &str) {
    options.entry(name).or_insert_with(|| json!({}))[key] = value.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type() {
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave").unwrap(),
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                "BindOptions": {"Propagation": "rslave"}})
        );
        assert_eq!(
            mount("source=data,target=/d,volume-nocopy,volume-opt=o=size=1m,volume-label=a=b")
                .unwrap(),
            json!({"Type": "volume", "Source": "data", "Target": "/d", "VolumeOptions":
                {"NoCopy": true, "Labels": {"a": "b"}, "DriverConfig": {"Options": {"o": "size=1m"}}}})
        );
        assert_eq!(
            mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap(),
            json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}})
        );
        for wrong in
            ["type=bind", "type=x,dst=/a", "dst=/a,nosuch=1", "type=tmpfs,dst=/a,volume-nocopy"]
        {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }
}
