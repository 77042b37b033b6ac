package software.fabric8;

import static software.Tell.comes;
import static software.Tell.part;
import static software.Tell.same;

import io.fabric8.kubernetes.api.model.NamespaceBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import java.util.List;
import java.util.Map;
import java.util.Set;
import software.Tell;

/** fabric8's client against KUBECONFIG's cluster. Its arguments are parts; without any all are run. */
public final class Main {
    static final String NS = "fabric8";

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        Set<String> chosen = Set.of(arguments);
        try (KubernetesClient client = new KubernetesClientBuilder().build()) {
            same("the version", client.getKubernetesVersion().getGitVersion(), "v1.37.2");
            client.namespaces().resource(new NamespaceBuilder().withNewMetadata().withName(NS).endMetadata().build()).create();
            comes("the namespace's account", () -> client.serviceAccounts().inNamespace(NS).withName("default").get() != null);
            List<Map.Entry<String, Tell.Attempt>> parts = List.of(
                    Map.entry("builtIn", () -> Things.builtIn(client)),
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
            same("the namespace goes", client.namespaces().withName(NS).delete().size(), 1);
        }
        System.exit(0);
    }
}
