package software.fabric8;

import static software.Tell.comes;
import static software.Tell.knarrIsKilled;
import static software.Tell.same;
import static software.fabric8.Main.NS;
import static software.fabric8.Things.map;

import io.fabric8.kubernetes.api.model.ConfigMap;
import io.fabric8.kubernetes.api.model.ConfigMapBuilder;
import io.fabric8.kubernetes.api.model.ConfigMapList;
import io.fabric8.kubernetes.api.model.ListOptionsBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.Watch;
import io.fabric8.kubernetes.client.Watcher;
import io.fabric8.kubernetes.client.WatcherException;
import io.fabric8.kubernetes.client.dsl.NonNamespaceOperation;
import io.fabric8.kubernetes.client.dsl.Resource;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderCallbacks;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderElectionConfig;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderElectionConfigBuilder;
import io.fabric8.kubernetes.client.extended.leaderelection.resourcelock.LeaseLock;
import io.fabric8.kubernetes.client.informers.ResourceEventHandler;
import io.fabric8.kubernetes.client.informers.SharedIndexInformer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Watches, informers and leader election. */
final class Watches {
    private Watches() {}

    /** Events as lines. */
    private static final class Lines implements Watcher<ConfigMap>, ResourceEventHandler<ConfigMap> {
        final List<String> lines = Collections.synchronizedList(new ArrayList<>());

        @Override
        public void eventReceived(Action action, ConfigMap map) {
            lines.add(action + " " + map.getMetadata().getName());
        }

        @Override
        public void onClose(WatcherException cause) {
            lines.add("closed: " + cause.getMessage());
        }

        @Override
        public void onAdd(ConfigMap map) {
            lines.add("add " + map.getMetadata().getName());
        }

        @Override
        public void onUpdate(ConfigMap old, ConfigMap map) {
            lines.add("update " + map.getMetadata().getName());
        }

        @Override
        public void onDelete(ConfigMap map, boolean unknown) {
            lines.add("delete " + map.getMetadata().getName());
        }
    }

    static void watches(KubernetesClient client) throws Exception {
        NonNamespaceOperation<ConfigMap, ConfigMapList, Resource<ConfigMap>> maps = client.configMaps().inNamespace(NS);
        Lines seen = new Lines();
        // Each of its watches is ended by the server after a second: it goes on from the last revision.
        String revision = maps.list().getMetadata().getResourceVersion();
        try (Watch watch = maps.watch(new ListOptionsBuilder().withResourceVersion(revision).withTimeoutSeconds(1L).build(), seen)) {
            maps.resource(map("w", Map.of())).create();
            Thread.sleep(2500);
            maps.withName("w").edit(m -> new ConfigMapBuilder(m).addToData("k", "v").build());
            maps.withName("w").delete();
            comes("a watch goes on", () -> seen.lines.size() >= 3);
        }
        same("each event once", List.copyOf(seen.lines), List.of("ADDED w", "MODIFIED w", "DELETED w"));
        ConfigMap waited = maps.resource(map("u", Map.of())).create();
        CompletableFuture<ConfigMap> until = CompletableFuture.supplyAsync(
                () -> maps.withName("u").waitUntilCondition(m -> m != null && m.getData() != null, 20, TimeUnit.SECONDS));
        maps.resource(new ConfigMapBuilder(waited).addToData("k", "v").build()).update();
        same("a condition is waited for", until.get().getData(), Map.of("k", "v"));
        List<String> names = Collections.synchronizedList(new ArrayList<>());
        CompletableFuture<String> listed = maps.withLabel("of", "fabric8").streamingList(m -> names.add(m.getMetadata().getName()));
        String at = listed.get(20, TimeUnit.SECONDS);
        Collections.sort(names);
        same("a list by a watch", names, maps.withLabel("of", "fabric8").list().getItems().stream().map(m -> m.getMetadata().getName()).sorted().toList());
        same("and its revision", at.isEmpty(), false);
    }

    static void informers(KubernetesClient client) throws Exception {
        NonNamespaceOperation<ConfigMap, ConfigMapList, Resource<ConfigMap>> maps = client.configMaps().inNamespace(NS);
        Lines seen = new Lines();
        ConfigMap first = maps.resource(new ConfigMapBuilder(map("i0", Map.of())).editMetadata().addToLabels("of", "informer").endMetadata().build()).create();
        try (SharedIndexInformer<ConfigMap> informer = maps.withLabel("of", "informer").withLimit(1L).runnableInformer(0)) {
            informer.addIndexers(Map.of("data", m -> m.getData() == null ? List.of() : List.copyOf(m.getData().keySet())));
            informer.addEventHandler(seen);
            informer.start();
            comes("an informer has its state", informer::hasSynced);
            maps.resource(new ConfigMapBuilder(first).editMetadata().withName("i1").withResourceVersion(null).endMetadata().addToData("k", "v").build()).create();
            comes("an informer hears", () -> seen.lines.size() == 2);
            same("its index", informer.getIndexer().byIndex("data", "k").stream().map(m -> m.getMetadata().getName()).toList(), List.of("i1"));
            // Its label goes: that is a deletion for who selects by it.
            maps.withName("i0").edit(m -> new ConfigMapBuilder(m).editMetadata().removeFromLabels("of").endMetadata().build());
            comes("it hears what is no longer selected", () -> seen.lines.contains("delete i0"));
            same("each change once", List.copyOf(seen.lines), List.of("add i0", "add i1", "delete i0"));
            if (knarrIsKilled()) {
                comes("the server is back", () -> ready(client));
                maps.resource(new ConfigMapBuilder(first).editMetadata().withName("i2").withResourceVersion(null).endMetadata().build()).create();
                comes("it goes on after the death of the server", () -> seen.lines.contains("add i2"));
                same("and tells nothing twice", List.copyOf(seen.lines).subList(3, seen.lines.size()), List.of("add i2"));
            }
        }
    }

    private static boolean ready(KubernetesClient client) {
        try {
            return "ok".equals(client.raw("/readyz"));
        } catch (RuntimeException e) {
            return false;
        }
    }

    private static CompletableFuture<?> elects(KubernetesClient client, String who, List<String> told) {
        LeaderElectionConfig config = new LeaderElectionConfigBuilder().withName("check").withLock(new LeaseLock(NS, "leader", who)).withReleaseOnCancel(true)
                .withLeaseDuration(Duration.ofSeconds(6)).withRenewDeadline(Duration.ofSeconds(4)).withRetryPeriod(Duration.ofMillis(500))
                .withLeaderCallbacks(new LeaderCallbacks(() -> told.add(who + " leads"), () -> told.add(who + " stops"), leader -> {})).build();
        return client.leaderElector().withConfig(config).build().start();
    }

    static void leaders(KubernetesClient client) throws Exception {
        List<String> told = Collections.synchronizedList(new ArrayList<>());
        CompletableFuture<?> one = elects(client, "one", told);
        comes("one leads", () -> told.contains("one leads"));
        CompletableFuture<?> two = elects(client, "two", told);
        Thread.sleep(2000);
        same("alone", List.copyOf(told), List.of("one leads"));
        one.cancel(true);
        comes("two leads when one lets go", () -> told.contains("two leads"));
        same("in this order", List.copyOf(told), List.of("one leads", "one stops", "two leads"));
        same("the lease", client.leases().inNamespace(NS).withName("leader").get().getSpec().getHolderIdentity(), "two");
        two.cancel(true);
    }
}
