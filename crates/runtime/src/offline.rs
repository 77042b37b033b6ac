//! The image store by itself, for commands that run beside the process with the [`crate::Runtime`], or without one.

use std::path::Path;

use crate::error::Result;
use crate::types::{Config, Image, Progress};
use crate::{images, prepare};

/// The images of a cluster. A runtime that is open in another process sees every change at its next look.
pub struct Images {
    store: images::Images,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("layers", &self.store.layers_dir()).finish_non_exhaustive()
    }
}

impl Images {
    /// Opens the store; its directories are made if need be.
    pub fn open(config: &Config) -> Result<Images> {
        Ok(Images { store: images::Images::open(config)? })
    }

    /// As [`crate::Runtime::import`], but on the caller's thread.
    pub async fn import(&self, path: &Path, progress: &dyn Progress) -> Result<Vec<Image>> {
        self.store.import(path, progress)
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        self.store.all()
    }

    /// As [`crate::Runtime::remove_image`], but on the caller's thread.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        self.store.remove(reference, &|| Ok(prepare::layers_in_use(self.store.users()?)))
    }
}
