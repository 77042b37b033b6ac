//! What holds for the controllers, in the original's terms: a `KubeControllerManagerConfiguration` for `/configz`, and the flags for
//! `/flagz`. What has no counterpart here has the original's default.

use std::collections::BTreeMap;

use machinery::Value;
use machinery::time::go_duration;
use serde_json::json;

use crate::Config;

impl Config {
    /// The configuration that holds (upstream `kubecontrollermanager.config.k8s.io/v1alpha1`, which has Go's names of its parts).
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut all = json!({"kind": "KubeControllerManagerConfiguration", "apiVersion": "kubecontrollermanager.config.k8s.io/v1alpha1"});
        for part in [self.generic(), self.of_nodes(), workloads(), services(), storage(), self.others()] {
            if let (Value::Object(all), Value::Object(part)) = (&mut all, part) {
                all.extend(part);
            }
        }
        all
    }

    /// The settings by the names of the original's flags that mean the same, as Go writes their values.
    #[must_use]
    pub fn flags(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("allocate-node-cidrs", self.cluster_cidr.is_some().to_string()),
            ("cluster-cidr", self.cluster_cidr.clone().unwrap_or_default()),
            ("cluster-signing-duration", go_duration(self.signing_life)),
            ("controllers", format!("[{}]", self.enabled.join(","))),
            ("node-cidr-mask-size-ipv4", self.node_cidr_mask.to_string()),
            ("node-cidr-mask-size-ipv6", self.node_cidr_mask_v6.to_string()),
            ("node-monitor-grace-period", go_duration(self.node_monitor_grace)),
            ("terminated-pod-gc-threshold", self.terminated_pods_max.to_string()),
            ("use-service-account-credentials", "true".to_owned()),
        ])
    }

    fn generic(&self) -> Value {
        let client = json!({"kubeconfig": "", "acceptContentTypes": "", "contentType": "application/vnd.kubernetes.protobuf", "qps": 20, "burst": 30});
        let leader = json!({
            "leaderElect": true, "leaseDuration": "15s", "renewDeadline": "10s", "retryPeriod": "2s", "resourceLock": "leases",
            "resourceName": "kube-controller-manager", "resourceNamespace": "kube-system",
        });
        json!({
            "Generic": {
                "Port": 0, "Address": "0.0.0.0", "MinResyncPeriod": "12h0m0s", "ClientConnection": client, "ControllerStartInterval": "0s",
                "LeaderElection": leader, "Controllers": self.enabled,
                "Debugging": {"enableProfiling": true, "enableContentionProfiling": false},
                "LeaderMigrationEnabled": false, "LeaderMigration": {"leaderName": "", "resourceLock": "", "controllerLeaders": null},
            },
            "KubeCloudShared": {
                "CloudProvider": {"Name": "", "CloudConfigFile": ""}, "ExternalCloudVolumePlugin": "", "UseServiceAccountCredentials": true,
                "AllowUntaggedCloud": false, "RouteReconciliationPeriod": "10s", "ClusterName": "kubernetes",
                "ClusterCIDR": self.cluster_cidr.as_deref().unwrap_or_default(), "AllocateNodeCIDRs": self.cluster_cidr.is_some(),
                "CIDRAllocatorType": "RangeAllocator", "ConfigureCloudRoutes": true, "NodeSyncPeriod": "0s",
            },
        })
    }

    fn of_nodes(&self) -> Value {
        json!({
            "NodeIPAMController": {
                "ServiceCIDR": "", "SecondaryServiceCIDR": "", "NodeCIDRMaskSize": 0,
                "NodeCIDRMaskSizeIPv4": self.node_cidr_mask, "NodeCIDRMaskSizeIPv6": self.node_cidr_mask_v6,
            },
            "NodeLifecycleController": {
                "NodeEvictionRate": 0.1, "SecondaryNodeEvictionRate": 0.01, "NodeStartupGracePeriod": "1m0s",
                "NodeMonitorGracePeriod": go_duration(self.node_monitor_grace), "PodEvictionTimeout": "0s", "LargeClusterSizeThreshold": 50,
                "UnhealthyZoneThreshold": 0.55, "NodeMonitorPeriod": "5s",
            },
            "PodGCController": {"TerminatedPodGCThreshold": self.terminated_pods_max},
        })
    }

    fn others(&self) -> Value {
        let pair = || json!({"CertFile": "", "KeyFile": ""});
        json!({
            "CSRSigningController": {
                "ClusterSigningCertFile": "", "ClusterSigningKeyFile": "", "KubeletServingSignerConfiguration": pair(),
                "KubeletClientSignerConfiguration": pair(), "KubeAPIServerClientSignerConfiguration": pair(),
                "LegacyUnknownSignerConfiguration": pair(), "ClusterSigningDuration": go_duration(self.signing_life),
            },
            "DeprecatedController": {},
            "GarbageCollectorController": {
                "EnableGarbageCollector": true, "ConcurrentGCSyncs": 20,
                "GCIgnoredResources": [{"Group": "", "Resource": "events"}, {"Group": "events.k8s.io", "Resource": "events"}],
            },
            "LegacySATokenCleaner": {"CleanUpPeriod": "8760h0m0s"},
            "NamespaceController": {"NamespaceSyncPeriod": "5m0s", "ConcurrentNamespaceSyncs": 10},
            "ResourceQuotaController": {"ResourceQuotaSyncPeriod": "5m0s", "ConcurrentResourceQuotaSyncs": 5},
            "SAController": {"ServiceAccountKeyFile": "", "ConcurrentSATokenSyncs": 5, "RootCAFile": ""},
            "ValidatingAdmissionPolicyStatusController": {"ConcurrentPolicySyncs": 5},
            "DeviceTaintEvictionController": {"ConcurrentSyncs": 8},
            "ResourceClaimController": {"ConcurrentSyncs": 50},
        })
    }
}

fn workloads() -> Value {
    json!({
        "DaemonSetController": {"ConcurrentDaemonSetSyncs": 2},
        "DeploymentController": {"ConcurrentDeploymentSyncs": 5},
        "DisruptionController": {"ConcurrentDisruptionSyncs": 1},
        "StatefulSetController": {"ConcurrentStatefulSetSyncs": 5},
        "HPAController": {
            "ConcurrentHorizontalPodAutoscalerSyncs": 5, "HorizontalPodAutoscalerSyncPeriod": "15s",
            "HorizontalPodAutoscalerDownscaleStabilizationWindow": "5m0s", "HorizontalPodAutoscalerTolerance": 0.1,
            "HorizontalPodAutoscalerCPUInitializationPeriod": "5m0s", "HorizontalPodAutoscalerInitialReadinessDelay": "30s",
        },
        "JobController": {"ConcurrentJobSyncs": 5},
        "CronJobController": {"ConcurrentCronJobSyncs": 5},
        "ReplicaSetController": {"ConcurrentRSSyncs": 5},
        "ReplicationController": {"ConcurrentRCSyncs": 5},
        "TTLAfterFinishedController": {"ConcurrentTTLSyncs": 5},
    })
}

fn services() -> Value {
    json!({
        "EndpointController": {"ConcurrentEndpointSyncs": 5, "EndpointUpdatesBatchPeriod": "0s"},
        "EndpointSliceController": {"ConcurrentServiceEndpointSyncs": 5, "MaxEndpointsPerSlice": 100, "EndpointUpdatesBatchPeriod": "0s"},
        "EndpointSliceMirroringController": {
            "MirroringConcurrentServiceEndpointSyncs": 5, "MirroringMaxEndpointsPerSubset": 1000, "MirroringEndpointUpdatesBatchPeriod": "0s",
        },
        "ServiceController": {"ConcurrentServiceSyncs": 0},
    })
}

fn storage() -> Value {
    let recycler = json!({
        "MaximumRetry": 3, "MinimumTimeoutNFS": 300, "PodTemplateFilePathNFS": "", "IncrementTimeoutNFS": 30,
        "PodTemplateFilePathHostPath": "", "MinimumTimeoutHostPath": 60, "IncrementTimeoutHostPath": 30,
    });
    json!({
        "AttachDetachController": {
            "DisableAttachDetachReconcilerSync": false, "ReconcilerSyncLoopPeriod": "1m0s", "disableForceDetachOnTimeout": false,
        },
        "EphemeralVolumeController": {"ConcurrentEphemeralVolumeSyncs": 5},
        "PersistentVolumeBinderController": {
            "PVClaimBinderSyncPeriod": "15s",
            "VolumeConfiguration": {
                "EnableHostPathProvisioning": false, "EnableDynamicProvisioning": true, "PersistentVolumeRecyclerConfiguration": recycler,
                "FlexVolumePluginDir": "",
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_all_parts_of_the_originals() {
        let config = Config { enabled: vec!["*".to_owned(), "-ttl-controller".to_owned()], cluster_cidr: Some("10.1.0.0/16".to_owned()), ..Config::default() };
        let shown = config.shown();
        // A kind, a version, and the 32 parts that a running kube-controller-manager of v1.37.2 shows.
        assert_eq!(shown.as_object().expect("an object").len(), 2 + 32);
        assert_eq!(shown["Generic"]["Controllers"], json!(["*", "-ttl-controller"]));
        assert_eq!(shown["NodeLifecycleController"]["NodeMonitorGracePeriod"], "50s");
        assert_eq!(shown["KubeCloudShared"]["ClusterCIDR"], "10.1.0.0/16");
        let flags = config.flags();
        assert_eq!((flags["controllers"].as_str(), flags["cluster-signing-duration"].as_str()), ("[*,-ttl-controller]", "8760h0m0s"));
    }
}
