// The JavaScript client against KUBECONFIG's cluster: main.mjs [PART…]. Without CLUSTER the server is not killed: so the original is asked.
import { informers, watches } from './watches.mjs';
import { builtIn, byKind, custom } from './objects.mjs';
import { pods } from './pods.mjs';
import { NS, comes, k8s, same, told } from './tell.mjs';

const PARTS = { builtIn, byKind, watches, custom, pods, informers };

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
same('the version', (await config.makeApiClient(k8s.VersionApi).getCode()).gitVersion, 'v1.37.2');
const health = new k8s.Health(config);
same('health', [await health.readyz({}), await health.livez({})], [true, true]);
await core.createNamespace({ body: { metadata: { name: NS } } });
await comes("the namespace's account", () => core.readNamespacedServiceAccount({ namespace: NS, name: 'default' }).catch(() => null));
for (const [name, part] of Object.entries(PARTS)) {
    if (process.argv.length > 2 && !process.argv.includes(name)) continue;
    try {
        await part(config);
    } catch (error) {
        told(`${name} runs to its end`, false, error.stack ?? JSON.stringify(error));
    }
}
const gone = await core.deleteNamespace({ name: NS });
same('the namespace goes', gone.status?.phase ?? gone.status, 'Terminating');
process.exit();
