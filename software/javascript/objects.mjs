// Objects of built-in and of custom kinds: typed, by their kind's name alone, and as plain JSON.
import { NS, comes, k8s, refused, same, told } from './tell.mjs';

const GROUP = { group: 'javascript.example.com', version: 'v1', namespace: NS, plural: 'jars' };
const JAR = { apiVersion: 'javascript.example.com/v1', kind: 'Jar', metadata: { name: 'j' } };
const as = (strategy) => k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy[strategy]);

export async function builtIn(config) {
    const core = config.makeApiClient(k8s.CoreV1Api);
    const apps = config.makeApiClient(k8s.AppsV1Api);
    const map = { metadata: { name: 'a', labels: { x: '1' } }, data: { one: '1' } };
    const made = await core.createNamespacedConfigMap({ namespace: NS, body: map });
    told('a time is a time', made.metadata.creationTimestamp instanceof Date && !Number.isNaN(made.metadata.creationTimestamp.valueOf()));
    await refused('a name twice', core.createNamespacedConfigMap({ namespace: NS, body: map }), 409, 'AlreadyExists');
    await refused('what is not there', core.readNamespacedConfigMap({ namespace: NS, name: 'none' }), 404, 'NotFound', 'configmaps "none" not found');
    const patch = (body, strategy, options = {}) => core.patchNamespacedConfigMap({ namespace: NS, name: 'a', body, ...options }, as(strategy));
    same('merge patch', (await patch({ data: { one: null, two: '2' } }, 'MergePatch')).data, { two: '2' });
    same('JSON patch', (await patch([{ op: 'add', path: '/data/three', value: '3' }], 'JsonPatch')).data, { two: '2', three: '3' });
    const test = [{ op: 'test', path: '/data/three', value: '4' }];
    await refused('a JSON patch whose test fails', patch(test, 'JsonPatch'), 422, 'Invalid', 'the server rejected our request due to an error in our request');
    const apply = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'a' }, data: { three: '4' } };
    await refused("apply of another's field", patch(apply, 'ServerSideApply', { fieldManager: 'js' }), 409, 'Conflict', '.data.three');
    same('apply by force', (await patch(apply, 'ServerSideApply', { fieldManager: 'js', force: true })).data, { two: '2', three: '4' });
    await refused('apply by nobody', patch(apply, 'ServerSideApply'), 422, 'Invalid', 'fieldManager: Required value: is required for apply patch');
    const dry = await patch({ data: { five: '5' } }, 'StrategicMergePatch', { dryRun: 'All' });
    const kept = await core.readNamespacedConfigMap({ namespace: NS, name: 'a' });
    same('a dry run', [dry.data.five, kept.data.five], ['5', undefined]);
    await refused('an update of an old revision', core.replaceNamespacedConfigMap({ namespace: NS, name: 'a', body: made }), 409, 'Conflict', 'the object has been modified');
    kept.data = { six: '6' };
    same('an update', (await core.replaceNamespacedConfigMap({ namespace: NS, name: 'a', body: kept })).data, { six: '6' });

    const template = { metadata: { labels: { app: 'd' } }, spec: { containers: [{ name: 'c', image: 'knarr.local/shell:v1', args: ['wait'] }] } };
    const deployment = { metadata: { name: 'd' }, spec: { replicas: 0, selector: { matchLabels: { app: 'd' } }, template } };
    await apps.createNamespacedDeployment({ namespace: NS, body: deployment });
    const change = { spec: { strategy: { rollingUpdate: { maxSurge: 2 } }, template: { spec: { containers: [{ name: 'c', env: [{ name: 'A', value: 'b' }] }] } } } };
    const { spec } = await apps.patchNamespacedDeployment({ namespace: NS, name: 'd', body: change }, as('StrategicMergePatch'));
    const [container] = spec.template.spec.containers;
    same('strategic patch', [container.image, container.env[0].value, spec.strategy.rollingUpdate], ['knarr.local/shell:v1', 'b', { maxSurge: 2, maxUnavailable: '25%' }]);
    const scale = await apps.replaceNamespacedDeploymentScale({ namespace: NS, name: 'd', body: { metadata: { name: 'd', namespace: NS }, spec: { replicas: 1 } } });
    same('scale', scale.spec.replicas, 1);
    await apps.deleteNamespacedDeployment({ namespace: NS, name: 'd', propagationPolicy: 'Foreground' });

    // JavaScript's times end at milliseconds; the client fills them up.
    const renewed = new k8s.V1MicroTime('2026-01-02T03:04:05.678Z');
    const lease = { metadata: { name: 'l' }, spec: { holderIdentity: 'js', renewTime: renewed, leaseDurationSeconds: 9 } };
    const leases = config.makeApiClient(k8s.CoordinationV1Api);
    const held = await leases.createNamespacedLease({ namespace: NS, body: lease });
    same("a lease's time", held.spec.renewTime, '2026-01-02T03:04:05.678000Z');
    const secret = await core.createNamespacedSecret({ namespace: NS, body: { metadata: { name: 's' }, stringData: { a: 'ä' } } });
    same('a secret', Buffer.from(secret.data.a, 'base64').toString(), 'ä');

    for (const name of ['p1', 'p2', 'p3']) await core.createNamespacedConfigMap({ namespace: NS, body: { metadata: { name, labels: { page: 'yes' } } } });
    const names = [];
    let page;
    do {
        page = await core.listNamespacedConfigMap({ namespace: NS, labelSelector: 'page in (yes,no)', limit: 2, _continue: page?.metadata._continue });
        names.push(page.items.map((item) => item.metadata.name));
    } while (page.metadata._continue);
    same('pages', names, [['p1', 'p2'], ['p3']]);
    same('a field', (await core.listNamespacedConfigMap({ namespace: NS, fieldSelector: 'metadata.name=p2' })).items.length, 1);
    const gone = await core.deleteCollectionNamespacedConfigMap({ namespace: NS, labelSelector: 'page' });
    same('many are deleted', [gone.kind, (await core.listNamespacedConfigMap({ namespace: NS, labelSelector: 'page' })).items.length], ['ConfigMapList', 0]);
    const token = await core.createNamespacedServiceAccountToken({ namespace: NS, name: 'default', body: { spec: { audiences: ['a'], expirationSeconds: 600 } } });
    const review = { spec: { token: token.status.token, audiences: ['a'] } };
    const { status } = await config.makeApiClient(k8s.AuthenticationV1Api).createTokenReview({ body: review });
    same('a token and its review', [status.authenticated, status.user.username], [true, `system:serviceaccount:${NS}:default`]);
}

export async function byKind(config) {
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const spec = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'by-kind', namespace: NS }, spec: { ports: [{ port: 80, targetPort: 'web' }] } };
    same('made by its kind', (await objects.create(spec)).spec.ports[0].targetPort, 'web');
    const patched = await objects.patch({ ...spec, spec: { ports: [{ port: 80, name: 'http' }] } }, undefined, undefined, undefined, undefined, k8s.PatchStrategy.StrategicMergePatch);
    same('patched by its kind', patched.spec.ports, [{ name: 'http', port: 80, protocol: 'TCP', targetPort: 'web' }]);
    const applied = await objects.patch({ ...spec, metadata: { ...spec.metadata, labels: { a: 'b' } } }, undefined, undefined, 'js', true, k8s.PatchStrategy.ServerSideApply);
    same('applied by its kind', [applied.metadata.labels, applied.metadata.managedFields.map((m) => m.operation).sort()], [{ a: 'b' }, ['Apply', 'Update']]);
    same('listed by its kind', (await objects.list('v1', 'Service', NS)).items.map((item) => item.metadata.name), ['by-kind']);
    same('deleted by its kind', (await objects.delete(spec)).kind, 'Service');
    await refused('a kind that is none', objects.read(spec), 404, 'NotFound', 'services "by-kind" not found');
}

export async function custom(config) {
    const extensions = config.makeApiClient(k8s.ApiextensionsV1Api);
    const objects = config.makeApiClient(k8s.CustomObjectsApi);
    const number = { type: 'object', properties: { n: { type: 'integer' } } };
    const spec = { type: 'object', properties: { n: { type: 'integer', _default: 1 }, tags: { type: 'array', items: { type: 'string' }, x_kubernetes_list_type: 'set' } } };
    const schema = { type: 'object', properties: { spec, status: number } };
    const subresources = { status: {}, scale: { specReplicasPath: '.spec.n', statusReplicasPath: '.status.n' } };
    const version = { name: 'v1', served: true, storage: true, subresources, schema: { openAPIV3Schema: schema } };
    const names = { plural: 'jars', singular: 'jar', kind: 'Jar' };
    const definition = { metadata: { name: 'jars.javascript.example.com' }, spec: { group: GROUP.group, scope: 'Namespaced', names, versions: [version] } };
    await extensions.createCustomResourceDefinition({ body: definition });
    await comes('the definition is served', async () => {
        const { status } = await extensions.readCustomResourceDefinition({ name: 'jars.javascript.example.com' });
        return status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True');
    });
    const made = await objects.createNamespacedCustomObject({ ...GROUP, body: { ...JAR, spec: { tags: ['a'], other: 1 } } });
    same('defaults and pruning', made.spec, { n: 1, tags: ['a'] });
    const strict = { ...GROUP, fieldValidation: 'Strict', body: { ...JAR, metadata: { name: 'k' }, spec: { other: 1 } } };
    await refused('a field that is none', objects.createNamespacedCustomObject(strict), 400, 'BadRequest', 'strict decoding error: unknown field "spec.other"');
    const jar = { ...GROUP, name: 'j' };
    const patch = (body, strategy, options = {}) => objects.patchNamespacedCustomObject({ ...jar, body, ...options }, as(strategy));
    same('merge patch of a custom object', (await patch({ spec: { n: 2 } }, 'MergePatch')).spec.n, 2);
    same('JSON patch of a custom object', (await patch([{ op: 'replace', path: '/spec/n', value: 3 }], 'JsonPatch')).spec.n, 3);
    await refused('a strategic patch of a custom object', patch({ spec: { n: 2 } }, 'StrategicMergePatch'), 415, 'UnsupportedMediaType', 'accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml');
    await refused('a wrong type', patch({ spec: { n: 'two' } }, 'MergePatch'), 422, 'Invalid', 'must be of type integer');
    same('apply adds to a set', (await patch({ ...JAR, spec: { tags: ['b'] } }, 'ServerSideApply', { fieldManager: 'js', force: true })).spec.tags, ['a', 'b']);
    const status = await objects.patchNamespacedCustomObjectStatus({ ...jar, body: { status: { n: 2 } } }, as('MergePatch'));
    same('its status', [status.status, status.metadata.generation], [{ n: 2 }, 4]);
    const scale = await objects.getNamespacedCustomObjectScale(jar);
    same('its scale', [scale.kind, scale.spec.replicas, scale.status.replicas], ['Scale', 3, 2]);
    const { items } = await objects.listNamespacedCustomObject({ ...GROUP, labelSelector: '!none' });
    same('a list of them', items.map((item) => item.metadata.name), ['j']);
    same('by its kind', (await k8s.KubernetesObjectApi.makeApiClient(config).read({ ...JAR, metadata: { name: 'j', namespace: NS } })).spec.n, 3);
    const gone = await objects.deleteNamespacedCustomObject(jar);
    same('its deletion', [gone.status, gone.details.kind, gone.details.name], ['Success', 'jars', 'j']);
    await extensions.deleteCustomResourceDefinition({ name: 'jars.javascript.example.com' });
}
