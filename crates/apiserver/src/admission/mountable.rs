//! Which Secrets the pods of an account may use, where its annotation says that they are its own alone (upstream's
//! `limitSecretReferences`).

use super::{items, text};
use machinery::Value;
use std::collections::HashSet;

const ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";

/// Refuses what the account does not name: of a whole pod, or of its ephemeral containers alone.
pub(super) fn check(account: &Value, pod: &Value, whole: bool) -> Result<(), String> {
    // As Go reads a bool.
    if !matches!(text(&account["metadata"]["annotations"], ANNOTATION), "1" | "t" | "T" | "TRUE" | "true" | "True") {
        return Ok(());
    }
    let (spec, owner) = (&pod["spec"], text(&account["metadata"], "name"));
    let secrets = names(&account["secrets"]);
    if !whole {
        return of_containers(spec, "ephemeralContainers", "ephemeral container", &secrets, owner);
    }
    for secret in items(&spec["volumes"]).iter().map(|volume| &volume["secret"]).filter(|secret| secret.is_object()) {
        let name = text(secret, "secretName");
        if !secrets.contains(name) {
            return Err(format!("volume with secret.secretName=\"{name}\" {}", unnamed(owner, "secret")));
        }
    }
    of_containers(spec, "initContainers", "init container", &secrets, owner)?;
    of_containers(spec, "containers", "container", &secrets, owner)?;
    let pulls = names(&account["imagePullSecrets"]);
    for (at, name) in items(&spec["imagePullSecrets"]).iter().map(|secret| text(secret, "name")).enumerate() {
        if !pulls.contains(name) {
            return Err(format!("imagePullSecrets[{at}].name=\"{name}\" {}", unnamed(owner, "imagePullSecret")));
        }
    }
    Ok(())
}

fn unnamed(owner: &str, what: &str) -> String {
    format!("is not allowed because service account {owner} does not reference that {what}")
}

fn names(list: &Value) -> HashSet<&str> {
    items(list).iter().map(|secret| text(secret, "name")).collect()
}

fn of_containers(spec: &Value, list: &str, word: &str, secrets: &HashSet<&str>, owner: &str) -> Result<(), String> {
    for container in items(&spec[list]) {
        let told = |by: String, secret: &Value| {
            let name = text(secret, "name");
            let why = format!("{word} {} with {by} referencing secret.secretName=\"{name}\" {}", text(container, "name"), unnamed(owner, "secret"));
            if secret.is_object() && !secrets.contains(name) { Err(why) } else { Ok(()) }
        };
        for env in items(&container["env"]) {
            told(format!("envVar {}", text(env, "name")), &env["valueFrom"]["secretKeyRef"])?;
        }
        for source in items(&container["envFrom"]) {
            told("envFrom".into(), &source["secretRef"])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_that_says_so_names_what_its_pods_may_use() {
        let asked = |says: &str, spec: Value, whole: bool| {
            let mut account = json!({"metadata": {"name": "a"}, "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]});
            account["metadata"]["annotations"][ANNOTATION] = says.into();
            check(&account, &json!({"spec": spec}), whole).err().unwrap_or_default()
        };
        let env = |secret: &str| json!([{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]}]);
        let from = |secret: &str| json!([{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": secret}}]}]);
        let volume = |secret: &str| json!([{"name": "e", "emptyDir": {}}, {"name": "v", "secret": {"secretName": secret}}]);
        let own = json!({"volumes": volume("own"), "initContainers": from("own"), "containers": env("own"), "imagePullSecrets": [{"name": "pull"}]});
        assert_eq!(asked("true", own, true), "");
        let why = "is not allowed because service account a does not reference that";
        for (spec, told) in [
            (json!({"volumes": volume("x")}), format!("volume with secret.secretName=\"x\" {why} secret")),
            (json!({"initContainers": env("x")}), format!("init container c with envVar E referencing secret.secretName=\"x\" {why} secret")),
            (json!({"containers": from("x")}), format!("container c with envFrom referencing secret.secretName=\"x\" {why} secret")),
            (json!({"imagePullSecrets": [{"name": "own"}]}), format!("imagePullSecrets[0].name=\"own\" {why} imagePullSecret")),
        ] {
            assert_eq!(asked("T", spec.clone(), true), told);
            assert_eq!(asked("yes", spec.clone(), true), "", "it does not say so");
            assert_eq!(asked("T", spec, false), "", "only what is added is looked at");
        }
        let debugged = asked("1", json!({"ephemeralContainers": from("x")}), false);
        assert_eq!(debugged, format!("ephemeral container c with envFrom referencing secret.secretName=\"x\" {why} secret"));
    }
}
