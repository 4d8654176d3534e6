//! Which log a container has.

use std::collections::BTreeMap;

use sampan_runtime::LogSetup;
use sampan_runtime::logs::{self, LogInfo};
use sampan_types::docker::HostConfigLogConfig;

use crate::Engine;
use crate::config::LogDefaults;
use crate::error::Result;
use crate::record::ContainerRecord;

/// A container's log configuration with the daemon's defaults filled in:
/// driver, and options where the driver is the default one.
#[must_use]
pub fn with_defaults(
    own: Option<&HostConfigLogConfig>,
    defaults: &LogDefaults,
) -> HostConfigLogConfig {
    let own = own.cloned().unwrap_or_default();
    let driver = own.typ.filter(|t| !t.is_empty()).unwrap_or_else(|| defaults.driver.clone());
    let mut options = own.config.unwrap_or_default();
    if driver == defaults.driver {
        for (k, v) in &defaults.options {
            options.entry(k.clone()).or_insert_with(|| v.clone());
        }
    }
    HostConfigLogConfig { typ: Some(driver), config: Some(options) }
}

/// Driver and options of a record.
#[must_use]
pub fn driver(record: &ContainerRecord) -> (String, BTreeMap<String, String>) {
    let log = record.host_config.log_config.clone().unwrap_or_default();
    let options = log.config.unwrap_or_default().into_iter().collect();
    (log.typ.unwrap_or_default(), options)
}

impl Engine {
    /// The complete setup of a container's log.
    ///
    /// # Errors
    /// When driver or options are wrong; `create` has checked them.
    pub fn log_setup(&self, record: &ContainerRecord) -> Result<LogSetup> {
        let (driver, options) = driver(record);
        let command = std::iter::once(record.path.as_str())
            .chain(record.args.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ");
        let info = LogInfo {
            container_id: record.id.as_str(),
            container_name: record.name.as_str(),
            image_id: record.image.as_str(),
            image_name: record.config.image.as_deref().unwrap_or_default(),
            command: &command,
            env: record.config.env.as_deref().unwrap_or_default(),
            labels: record.config.labels.clone().unwrap_or_default().into_iter().collect(),
        };
        let directory = record.data_dir(&self.inner.config.data_root);
        Ok(logs::setup(&driver, &options, &info, &directory)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_what_is_missing() {
        let defaults = LogDefaults::default();
        let log = with_defaults(None, &defaults);
        assert_eq!(log.typ.as_deref(), Some("json-file"));
        assert_eq!(log.config.unwrap()["max-size"], "20m");
        let own = HostConfigLogConfig {
            typ: Some(String::new()),
            config: Some([("max-size".to_owned(), "1k".to_owned())].into()),
        };
        let log = with_defaults(Some(&own), &defaults).config.unwrap();
        assert_eq!((log["max-size"].as_str(), log["max-file"].as_str()), ("1k", "3"));
        let own = HostConfigLogConfig { typ: Some("none".into()), config: None };
        assert!(with_defaults(Some(&own), &defaults).config.unwrap().is_empty());
    }
}
