//! Where one hook is and who the server is there, as it is configured.

use super::{ClientConfig, Credentials, Target};
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
    made: Mutex<Option<(Instant, Arc<Target>)>>,
}

impl Address {
    pub(crate) fn new(config: ClientConfig, credentials: Credentials) -> Address {
        Address { config, credentials, made: Mutex::default() }
    }

    /// The target; found out when it is asked first, and again where tokens and certificates lie in files that are replaced. What
    /// is wrong is not kept: it may be right the next time.
    pub(crate) fn target(&self) -> Result<Arc<Target>, String> {
        let mut made = self.made.lock();
        if let Some((since, target)) = &*made
            && (!self.credentials.has_files() || since.elapsed() < FILES_LIFE)
        {
            return Ok(Arc::clone(target));
        }
        let target = Arc::new(Target::new(&self.config, &self.credentials)?);
        *made = Some((Instant::now(), Arc::clone(&target)));
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_with_a_target_is_not_kept() {
        let folder = std::env::temp_dir().join(format!("knarr-webhook-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = "users:\n- name: '*'\n  user:\n    tokenFile: token\n";
        std::fs::write(folder.join("config"), config).expect("written");
        let credentials = Credentials::load(&folder.join("config")).expect("credentials");
        assert!(credentials.has_files() && !Credentials::default().has_files());
        let address = Address::new(ClientConfig::of(&json!({"url": "https://127.0.0.1/"})), credentials);
        assert!(address.target().is_err(), "there is no token yet");
        std::fs::write(folder.join("token"), "t").expect("written");
        let target = address.target().expect("a token");
        assert!(Arc::ptr_eq(&target, &address.target().expect("the same")));
        *address.made.lock() = Instant::now().checked_sub(FILES_LIFE).map(|since| (since, Arc::clone(&target)));
        assert!(!Arc::ptr_eq(&target, &address.target().expect("another")), "files are read again");
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
