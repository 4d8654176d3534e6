//! All containers of this daemon, by id, by name, and by the beginning of an id.
//!
//! Be aware: the lock is held for a look-up only, never across an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use sampan_types::{ContainerId, ContainerName, looks_like_id_prefix};

use super::Container;
use crate::error::{EngineError, Result};

#[derive(Debug, Default)]
struct Maps {
    /// Sorted, so that a prefix is one range.
    by_id: BTreeMap<String, Arc<Container>>,
    /// Names, also those of containers that are just being made.
    by_name: HashMap<String, ContainerId>,
    /// Those that are just being made, by id.
    making: HashMap<String, Arc<Container>>,
}

/// The index. See the module's documentation.
#[derive(Debug, Default)]
pub struct Index {
    maps: RwLock<Maps>,
}

impl Index {
    /// Finds a container by its whole id, its name (with or without a slash),
    /// or a beginning of its id that no other id has.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::AmbiguousPrefix`].
    pub fn resolve(&self, text: &str) -> Result<Arc<Container>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = maps.by_id.get(text) {
            return Ok(Arc::clone(found));
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(found) = maps.by_name.get(name).and_then(|id| maps.by_id.get(id.as_str())) {
            return Ok(Arc::clone(found));
        }
        if looks_like_id_prefix(text) {
            let mut matching = maps
                .by_id
                .range(text.to_owned()..)
                .take_while(|(id, _)| id.starts_with(text))
                .map(|(_, c)| c);
            match (matching.next(), matching.next()) {
                (Some(found), None) => return Ok(Arc::clone(found)),
                (Some(_), Some(_)) => return Err(EngineError::AmbiguousPrefix(text.to_owned())),
                _ => {}
            }
        }
        Err(EngineError::NoSuchContainer(text.to_owned()))
    }

    /// The container with this id.
    #[must_use]
    pub fn get(&self, id: &ContainerId) -> Option<Arc<Container>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.get(id.as_str()).cloned()
    }

    /// All containers, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Container>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.values().cloned().collect()
    }

    /// Takes a name for a container that is about to be made or renamed.
    ///
    /// # Errors
    /// [`EngineError::NameInUse`].
    pub fn reserve(&self, name: &ContainerName, id: &ContainerId) -> Result<()> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        match maps.by_name.get(name.as_str()) {
            Some(owner) if owner != id => {
                Err(EngineError::NameInUse { name: name.to_string(), owner: owner.clone() })
            }
            _ => {
                maps.by_name.insert(name.to_string(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives a name back, when it is this container's.
    pub fn release(&self, name: &ContainerName, id: &ContainerId) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.by_name.get(name.as_str()) == Some(id) {
            maps.by_name.remove(name.as_str());
        }
        maps.making.remove(id.as_str());
    }

    /// Notes that a container is being made, until it is added or its name is
    /// given back. Nobody finds it yet but by [`Index::being_made`].
    pub fn make(&self, container: Arc<Container>) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.making.insert(container.id().to_string(), container);
    }

    /// Finds a container that is being made by its whole id or its name.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub fn being_made(&self, text: &str) -> Result<Arc<Container>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let name = text.strip_prefix('/').unwrap_or(text);
        let id = maps.by_name.get(name).map_or(text, ContainerId::as_str);
        maps.making.get(id).cloned().ok_or_else(|| EngineError::NoSuchContainer(text.to_owned()))
    }

    /// Adds a container; its name must have been reserved.
    pub fn insert(&self, container: Arc<Container>) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.making.remove(container.id().as_str());
        maps.by_id.insert(container.id().to_string(), container);
    }

    /// Takes a container and its name out.
    pub fn remove(&self, container: &Container) {
        let name = container.record().name.clone();
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.remove(container.id().as_str());
        if maps.by_name.get(name.as_str()) == Some(container.id()) {
            maps.by_name.remove(name.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::container;

    fn index(ids: &[(&str, &str)]) -> Index {
        let index = Index::default();
        for (id, name) in ids {
            let c = container(&format!("{id:0<64}"), name);
            index.reserve(&c.record().name, c.id()).unwrap();
            index.insert(c);
        }
        index
    }

    #[test]
    fn found_by_id_name_and_prefix() {
        let index = index(&[("ab1", "web"), ("ab2", "db"), ("c", "ab2")]);
        assert_eq!(index.resolve("web").unwrap().id().short(), "ab1000000000");
        assert_eq!(index.resolve("/db").unwrap().id().short(), "ab2000000000");
        assert_eq!(index.resolve("ab1").unwrap().id().short(), "ab1000000000");
        // A name wins over the beginning of an id.
        assert_eq!(index.resolve("ab2").unwrap().id().short(), "c00000000000");
        assert_eq!(
            index.resolve("ab").unwrap_err().to_string(),
            "multiple IDs found with provided prefix: ab"
        );
        assert_eq!(index.resolve("x").unwrap_err().to_string(), "No such container: x");
        assert_eq!(index.resolve("").unwrap_err().to_string(), "No such container: ");
    }

    #[test]
    fn names_are_unique() {
        let index = index(&[("ab1", "web")]);
        let other = ContainerId::random();
        let name: ContainerName = "web".parse().unwrap();
        assert!(matches!(index.reserve(&name, &other), Err(EngineError::NameInUse { .. })));
        let web = index.resolve("web").unwrap();
        index.reserve(&name, web.id()).unwrap();
        index.remove(&web);
        index.reserve(&name, &other).unwrap();
        index.release(&name, &other);
        assert!(index.resolve("web").is_err());
    }

    #[test]
    fn what_is_being_made_is_found_as_such_only() {
        let index = Index::default();
        let c = container(&"ab".repeat(32), "web");
        let name = c.record().name.clone();
        index.reserve(&name, c.id()).unwrap();
        index.make(Arc::clone(&c));
        assert!(index.resolve("web").is_err() && index.all().is_empty());
        assert_eq!(index.being_made("/web").unwrap().id(), c.id());
        assert_eq!(index.being_made(c.id().as_str()).unwrap().id(), c.id());
        index.insert(Arc::clone(&c));
        assert!(index.being_made("web").is_err() && index.resolve("web").is_ok());
        index.make(Arc::clone(&c));
        index.release(&name, c.id());
        assert!(index.being_made(c.id().as_str()).is_err());
    }
}
