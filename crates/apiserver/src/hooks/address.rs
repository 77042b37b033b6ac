//! Where one hook is and who the server is there, as it is configured.

use super::{ClientConfig, Credentials, Pools, Target};
use crate::offload;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long what was read from files is believed.
const FILES_LIFE: Duration = Duration::from_secs(60);

/// What a [`Target`] is made of, when it is asked for, and the one that was made last.
#[derive(Debug)]
pub(crate) struct Address {
    config: ClientConfig,
    credentials: Credentials,
    pools: Pools,
    made: Mutex<Option<(Instant, Arc<Target>)>>,
}

impl Address {
    /// One with its server's connections among these.
    pub(crate) fn new(config: ClientConfig, credentials: Credentials, pools: Pools) -> Address {
        Address { config, credentials, pools, made: Mutex::default() }
    }

    /// One whose target is found out now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn found(config: ClientConfig, credentials: Credentials) -> Result<Address, String> {
        let pools = Pools::default();
        let target = Arc::new(Target::new(&config, &credentials, &pools)?);
        Ok(Address { config, credentials, pools, made: Mutex::new(Some((Instant::now(), target))) })
    }

    /// The target; found out when it is asked first, and again where tokens and certificates lie in files that are replaced. What
    /// is wrong at first is not kept: it may be right the next time. Files that cannot be read later leave the target as it was, as
    /// client-go keeps a token whose file is being replaced.
    pub(crate) async fn target(&self) -> Result<Arc<Target>, String> {
        let known = self.made.lock().as_ref().filter(|(since, _)| self.is_fresh(*since)).map(|(_, target)| Arc::clone(target));
        match known {
            Some(target) => Ok(target),
            None => Box::pin(self.find()).await,
        }
    }

    fn is_fresh(&self, since: Instant) -> bool {
        !self.credentials.has_files() || since.elapsed() < FILES_LIFE
    }

    async fn find(&self) -> Result<Arc<Target>, String> {
        let mut reading = Reading { made: &self.made, before: None };
        let known = {
            let mut made = self.made.lock();
            if let Some((since, target)) = made.as_mut() {
                if self.is_fresh(*since) {
                    return Ok(Arc::clone(target));
                }
                // Who comes meanwhile uses what there is: the files are read by one.
                reading.before = Some(std::mem::replace(since, Instant::now()));
            }
            made.clone()
        };
        let (config, credentials, pools) = (self.config.clone(), self.credentials.clone(), self.pools.clone());
        let target = match (offload::call(move || Target::new(&config, &credentials, &pools)).await, known) {
            (Ok(target), _) => Arc::new(target),
            (Err(why), Some((_, target))) => {
                tracing::warn!(why, "a hook's credentials could not be read again; those of before are used");
                target
            }
            (Err(why), None) => return Err(why),
        };
        reading.before = None;
        *self.made.lock() = Some((Instant::now(), Arc::clone(&target)));
        Ok(target)
    }
}

/// Puts the time back if who began to read the files has gone before the end.
struct Reading<'a> {
    made: &'a Mutex<Option<(Instant, Arc<Target>)>>,
    before: Option<Instant>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Some((since, _)) = self.made.lock().as_mut()
        {
            *since = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn what_is_wrong_with_a_target_is_not_kept() {
        let folder = std::env::temp_dir().join(format!("knarr-webhook-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = "users:\n- name: '*'\n  user:\n    tokenFile: token\n";
        std::fs::write(folder.join("config"), config).expect("written");
        let credentials = Credentials::load(&folder.join("config")).expect("credentials");
        assert!(credentials.has_files() && !Credentials::default().has_files());
        let address = Address::new(ClientConfig::of(&json!({"url": "https://127.0.0.1/"})), credentials, Pools::default());
        assert!(address.target().await.is_err(), "there is no token yet");
        std::fs::write(folder.join("token"), "t").expect("written");
        let target = address.target().await.expect("a token");
        assert!(Arc::ptr_eq(&target, &address.target().await.expect("the same")));
        let long_ago = || Instant::now().checked_sub(FILES_LIFE).map(|since| (since, Arc::clone(&target)));
        *address.made.lock() = long_ago();
        let another = address.target().await.expect("another");
        assert!(!Arc::ptr_eq(&target, &another), "files are read again");
        std::fs::remove_file(folder.join("token")).expect("gone");
        *address.made.lock() = long_ago();
        assert!(Arc::ptr_eq(&target, &address.target().await.expect("that of before")), "what was good is kept while a file is missing");
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
