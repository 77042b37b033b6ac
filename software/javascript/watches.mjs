// Watches and informers: from a revision, ended by the server, by the client, by the death of the server.
import { NS, comes, inTime, k8s, knarrIsKilled, same, told } from './tell.mjs';

const PATH = `/api/v1/namespaces/${NS}/configmaps`;
const make = (core, name, labels = {}) => core.createNamespacedConfigMap({ namespace: NS, body: { metadata: { name, labels } } });

/** The events of a watch until it ends, or until ENOUGH says so. */
function watched(config, query, enough = () => false) {
    return inTime(
        'a watch',
        new Promise((resolve, reject) => {
            const events = [];
            let ends = () => {};
            const controller = new k8s.Watch(config).watch(
                PATH,
                query,
                (type, object) => {
                    events.push([type, object]);
                    if (enough(events)) ends();
                },
                (error) => (error && error.name !== 'AbortError' ? reject(error) : resolve(events)),
            );
            ends = () => controller.then((c) => c.abort());
            controller.catch(reject);
        }),
    );
}

export async function watches(config) {
    const core = config.makeApiClient(k8s.CoreV1Api);
    const { resourceVersion } = (await core.listNamespacedConfigMap({ namespace: NS })).metadata;
    const looking = watched(config, { resourceVersion }, (events) => events.at(-1)[0] === 'DELETED');
    await make(core, 'w');
    await core.patchNamespacedConfigMap({ namespace: NS, name: 'w', body: [{ op: 'add', path: '/data', value: { k: 'v' } }] });
    await core.deleteNamespacedConfigMap({ namespace: NS, name: 'w' });
    const seen = (await looking).map(([type, object]) => [type, object.metadata.name]);
    same("a watch from a list's revision", seen, [['ADDED', 'w'], ['MODIFIED', 'w'], ['DELETED', 'w']]);
    const ended = await watched(config, { timeoutSeconds: 1 });
    told('a watch ends at its time', ended.length > 0 && ended.every(([type]) => type === 'ADDED'), JSON.stringify(ended));
    const state = await watched(config, { timeoutSeconds: 1, allowWatchBookmarks: true, sendInitialEvents: true, resourceVersionMatch: 'NotOlderThan' });
    const [type, mark] = state.at(-1);
    same('a watch with the state first', [type, mark.metadata.annotations], ['BOOKMARK', { 'k8s.io/initial-events-end': 'true' }]);
    const refused = await watched(config, { resourceVersion: 'old' }).catch((error) => error.statusCode);
    same('a watch from what is no revision', refused, 500);
}

export async function informers(config) {
    const core = config.makeApiClient(k8s.CoreV1Api);
    await make(core, 'i0', { of: 'informer' });
    const list = () => core.listNamespacedConfigMap({ namespace: NS, labelSelector: 'of=informer' });
    let lists = 0;
    let connects = 0;
    const events = [];
    // Each of its watches is ended by the server: it goes on from where it was.
    const informer = k8s.makeInformer(config, `${PATH}?timeoutSeconds=1`, () => ((lists += 1), list()), 'of=informer');
    for (const verb of ['add', 'update', 'delete']) informer.on(verb, (object) => events.push(`${verb} ${object.metadata.name}`));
    informer.on('connect', () => (connects += 1));
    const errors = [];
    informer.on('error', (error) => {
        errors.push(error);
        // As its documentation has it: what ended is begun again.
        setTimeout(() => informer.start(), 200);
    });
    await informer.start();
    await make(core, 'i1', { of: 'informer' });
    await make(core, 'other');
    await comes('an informer hears', () => events.length === 2);
    await comes('it comes back after the ends of its watches', () => connects >= 3);
    await core.patchNamespacedConfigMap({ namespace: NS, name: 'i1', body: [{ op: 'add', path: '/data', value: { k: 'v' } }] });
    // Its label goes: that is a deletion for who selects by it.
    await core.patchNamespacedConfigMap({ namespace: NS, name: 'i0', body: [{ op: 'remove', path: '/metadata/labels' }] });
    await comes('it hears what changed since', () => events.length === 4);
    same('each change once', [events, lists, errors], [['add i0', 'add i1', 'update i1', 'delete i0'], 1, []]);
    same('what it holds', informer.list(NS).map((object) => object.metadata.name), ['i1']);
    if (process.env.CLUSTER) {
        await knarrIsKilled();
        await make(core, 'i2', { of: 'informer' });
        await comes('it goes on after the death of the server', () => events.includes('add i2'));
        same('and tells nothing twice', events.slice(4), ['add i2']);
    }
    await informer.stop();
}
