package software.client_java;

import static software.Tell.comes;
import static software.Tell.part;
import static software.Tell.same;

import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.Configuration;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.apis.VersionApi;
import io.kubernetes.client.openapi.models.V1Namespace;
import io.kubernetes.client.openapi.models.V1ObjectMeta;
import io.kubernetes.client.util.Config;
import java.util.List;
import java.util.Map;
import java.util.Set;
import software.Tell;

/** Kubernetes' own client for Java against KUBECONFIG's cluster. Its arguments are parts; without any all are run. */
public final class Main {
    static final String NS = "client-java";

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        Set<String> chosen = Set.of(arguments);
        ApiClient client = Config.defaultClient();
        client.setReadTimeout(0);
        Configuration.setDefaultApiClient(client);
        CoreV1Api core = new CoreV1Api(client);
        same("the version", new VersionApi(client).getCode().execute().getGitVersion(), "v1.37.2");
        core.createNamespace(new V1Namespace().metadata(new V1ObjectMeta().name(NS))).execute();
        comes("the namespace's account", () -> core.listNamespacedServiceAccount(NS).execute().getItems().size() == 1);
        List<Map.Entry<String, Tell.Attempt>> parts = List.of(
                Map.entry("builtIn", () -> Things.builtIn(client)),
                Map.entry("protobuf", () -> Things.protobuf(client)),
                Map.entry("custom", () -> Things.custom(client)),
                Map.entry("watches", () -> Watches.watches(client)),
                Map.entry("pods", () -> Pods.pods(client)),
                Map.entry("leaders", () -> Watches.leaders(client)),
                Map.entry("informers", () -> Watches.informers(client)));
        for (Map.Entry<String, Tell.Attempt> entry : parts) {
            if (chosen.isEmpty() || chosen.contains(entry.getKey())) {
                part(entry.getKey(), entry.getValue());
            }
        }
        core.deleteNamespace(NS).execute();
        System.exit(0);
    }
}
