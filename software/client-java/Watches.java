package software.client_java;

import static software.Tell.comes;
import static software.Tell.knarrIsKilled;
import static software.Tell.same;
import static software.client_java.Main.NS;
import static software.client_java.Things.map;

import com.google.gson.reflect.TypeToken;
import io.kubernetes.client.extended.controller.Controller;
import io.kubernetes.client.extended.controller.builder.ControllerBuilder;
import io.kubernetes.client.extended.controller.reconciler.Request;
import io.kubernetes.client.extended.controller.reconciler.Result;
import io.kubernetes.client.extended.leaderelection.LeaderElectionConfig;
import io.kubernetes.client.extended.leaderelection.LeaderElector;
import io.kubernetes.client.extended.leaderelection.resourcelock.LeaseLock;
import io.kubernetes.client.informer.ResourceEventHandler;
import io.kubernetes.client.informer.SharedIndexInformer;
import io.kubernetes.client.informer.SharedInformerFactory;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.apis.CoordinationV1Api;
import io.kubernetes.client.openapi.models.V1ConfigMap;
import io.kubernetes.client.openapi.models.V1ConfigMapList;
import io.kubernetes.client.util.Watch;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** Watches, informers with a controller, and leader election. */
final class Watches {
    private Watches() {}

    static void watches(ApiClient client) throws Exception {
        CoreV1Api core = new CoreV1Api(client);
        String revision = core.listNamespacedConfigMap(NS).execute().getMetadata().getResourceVersion();
        core.createNamespacedConfigMap(NS, map("w", "watch", null)).execute();
        core.replaceNamespacedConfigMap("w", NS, map("w", "watch", Map.of("k", "v"))).execute();
        core.deleteNamespacedConfigMap("w", NS).execute();
        List<String> events = new ArrayList<>();
        try (Watch<V1ConfigMap> watch = Watch.createWatch(client, core.listNamespacedConfigMap(NS).resourceVersion(revision).watch(true).timeoutSeconds(2).buildCall(null),
                new TypeToken<Watch.Response<V1ConfigMap>>() {}.getType())) {
            for (Watch.Response<V1ConfigMap> event : watch) {
                events.add(event.type + " " + event.object.getMetadata().getName());
            }
        }
        same("a watch from a revision to its time", events, List.of("ADDED w", "MODIFIED w", "DELETED w"));
    }

    private static void make(CoreV1Api core, String name) throws ApiException {
        core.createNamespacedConfigMap(NS, map(name, "informer", null)).execute();
    }

    static void informers(ApiClient client) throws Exception {
        CoreV1Api core = new CoreV1Api(client);
        make(core, "i0");
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        List<String> reconciled = Collections.synchronizedList(new ArrayList<>());
        SharedInformerFactory factory = new SharedInformerFactory(client);
        // Each of its watches is ended by the server after a second: it goes on from the last revision.
        SharedIndexInformer<V1ConfigMap> informer = factory.sharedIndexInformerFor(
                p -> core.listNamespacedConfigMap(NS).labelSelector("of=informer").resourceVersion(p.resourceVersion).watch(p.watch)
                        .timeoutSeconds(p.watch ? 1 : null).buildCall(null),
                V1ConfigMap.class, V1ConfigMapList.class);
        informer.addEventHandler(new ResourceEventHandler<V1ConfigMap>() {
            @Override
            public void onAdd(V1ConfigMap map) {
                seen.add("add " + map.getMetadata().getName());
            }

            @Override
            public void onUpdate(V1ConfigMap old, V1ConfigMap map) {
                seen.add("update " + map.getMetadata().getName());
            }

            @Override
            public void onDelete(V1ConfigMap map, boolean unknown) {
                seen.add("delete " + map.getMetadata().getName());
            }
        });
        Controller controller = ControllerBuilder.defaultBuilder(factory).withName("check").withWorkerCount(1)
                .watch(queue -> ControllerBuilder.controllerWatchBuilder(V1ConfigMap.class, queue).build())
                .withReconciler((Request request) -> {
                    reconciled.add(request.getName());
                    return new Result(false);
                }).withReadyFunc(informer::hasSynced).build();
        factory.startAllRegisteredInformers();
        Thread running = new Thread(controller);
        running.setDaemon(true);
        running.start();
        comes("an informer has its state", informer::hasSynced);
        make(core, "i1");
        comes("an informer hears", () -> seen.size() == 2);
        Thread.sleep(2500);
        core.replaceNamespacedConfigMap("i1", NS, map("i1", "informer", Map.of("k", "v"))).execute();
        // Its label goes: that is a deletion for who selects by it.
        core.replaceNamespacedConfigMap("i0", NS, map("i0", "nothing", null)).execute();
        comes("it goes on after the ends of its watches", () -> seen.size() == 4);
        same("each change once", List.copyOf(seen), List.of("add i0", "add i1", "update i1", "delete i0"));
        comes("a controller reconciles", () -> reconciled.containsAll(List.of("i0", "i1")));
        same("what it holds", informer.getIndexer().listKeys(), List.of(NS + "/i1"));
        if (knarrIsKilled()) {
            comes("the server is back", () -> answers(core));
            make(core, "i2");
            comes("it goes on after the death of the server", () -> seen.contains("add i2"));
            // It lists again; what it held is an update then, as in client-go.
            same("and adds nothing twice", List.copyOf(seen).subList(4, seen.size()).stream().filter(line -> !line.equals("update i1")).toList(), List.of("add i2"));
        }
        controller.shutdown();
        factory.stopAllRegisteredInformers();
    }

    private static boolean answers(CoreV1Api core) {
        try {
            core.listNamespace().limit(1).execute();
            return true;
        } catch (ApiException e) {
            return false;
        }
    }

    private static LeaderElector elects(ApiClient client, String who, List<String> told) {
        LeaseLock lock = new LeaseLock(NS, "leader", who, client);
        LeaderElector elector = new LeaderElector(new LeaderElectionConfig(lock, Duration.ofSeconds(6), Duration.ofSeconds(4), Duration.ofMillis(500)));
        Thread thread = new Thread(() -> elector.run(() -> told.add(who + " leads"), () -> told.add(who + " stops")));
        thread.setDaemon(true);
        thread.start();
        return elector;
    }

    static void leaders(ApiClient client) throws Exception {
        List<String> told = Collections.synchronizedList(new ArrayList<>());
        LeaderElector one = elects(client, "one", told);
        comes("one leads", () -> told.contains("one leads"));
        LeaderElector two = elects(client, "two", told);
        Thread.sleep(2000);
        same("alone", List.copyOf(told), List.of("one leads"));
        one.close();
        comes("two leads when one is gone", () -> told.contains("two leads"));
        same("the lease", new CoordinationV1Api(client).readNamespacedLease("leader", NS).execute().getSpec().getHolderIdentity(), "two");
        two.close();
    }
}
