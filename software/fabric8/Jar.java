package software.fabric8;

import io.fabric8.kubernetes.api.model.Namespaced;
import io.fabric8.kubernetes.client.CustomResource;
import io.fabric8.kubernetes.model.annotation.Group;
import io.fabric8.kubernetes.model.annotation.Version;
import java.util.Set;

/** A custom kind as the client's users write one. */
@Group("fabric8.example.com")
@Version("v1")
public final class Jar extends CustomResource<Jar.Spec, Jar.Status> implements Namespaced {
    private static final long serialVersionUID = 1;

    static Jar of(String name, Spec spec) {
        Jar jar = new Jar();
        jar.getMetadata().setName(name);
        jar.setSpec(spec);
        return jar;
    }

    /** What is wanted. */
    public static final class Spec {
        public Integer n;
        public Set<String> tags;

        static Spec of(Integer n, String... tags) {
            Spec spec = new Spec();
            spec.n = n;
            spec.tags = tags.length == 0 ? null : Set.of(tags);
            return spec;
        }
    }

    /** What is. */
    public static final class Status {
        public Integer n;
    }
}
