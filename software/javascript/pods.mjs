// Pods: the client's WebSockets (exec, attach, port-forward, cp) and its logs.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import { NS, collects, comes, inTime, k8s, refused, same, told } from './tell.mjs';

function pod(name, args, extra = {}) {
    const container = { name: 'c', image: 'knarr.local/shell:v1', imagePullPolicy: 'IfNotPresent', args, ports: [{ containerPort: 8080 }], ...extra };
    return { metadata: { name, labels: { app: name } }, spec: { terminationGracePeriodSeconds: 1, volumes: [{ name: 'v', emptyDir: {} }], containers: [container] } };
}

function readyInTime(config, name) {
    const ready = (object) => object.status.conditions?.some((c) => c.type === 'Ready' && c.status === 'True');
    const query = { fieldSelector: `metadata.name=${name}` };
    return inTime(
        name,
        new Promise((resolve, reject) => {
            let stop = () => {};
            const controller = new k8s.Watch(config).watch(`/api/v1/namespaces/${NS}/pods`, query, (_, object) => ready(object) && stop(), (error) => (error && error.name !== 'AbortError' ? reject(error) : resolve()));
            stop = () => controller.then((c) => c.abort());
        }),
    );
}

/** What a command wrote, and the Status of its end. */
async function runs(config, command, { stdin = null, tty = false, of = 'shell', to = {} } = {}) {
    const [out, err] = [collects(), collects()];
    Object.assign(out.stream, to);
    const ended = new Promise((resolve, reject) => {
        new k8s.Exec(config).exec(NS, of, 'c', command, out.stream, tty ? null : err.stream, stdin, tty, resolve).catch(reject);
    });
    const status = await inTime(command.join(' '), ended);
    return { out: out.text(), err: err.text(), status };
}

async function exec(config) {
    const both = await runs(config, ['/shell', 'both']);
    same('exec tells its outputs apart', [both.out, both.err, both.status.status], ['to stdout\n', 'to stderr\n', 'Success']);
    const { status } = await runs(config, ['/shell', 'exit', '3']);
    const cause = { reason: 'ExitCode', message: '3' };
    same('exec tells how it ended', [status.status, status.reason, status.details.causes[0]], ['Failure', 'NonZeroExitCode', cause]);
    told('and in words', status.message.includes('command terminated with non-zero exit code'), status.message);
    const none = await runs(config, ['/none']);
    told('exec of what is not there', none.status.reason === 'InternalError' && none.status.message.includes('no such file or directory'), JSON.stringify(none.status));
    // The end of the input is told by v5's close, and ends the command.
    const text = Array.from({ length: 20_000 }, (_, i) => `line ${i}\n`).join('');
    const cat = await runs(config, ['/shell', 'cat'], { stdin: Readable.from([text.slice(0, 70_000), text.slice(70_000)]) });
    told('exec gives back what it is given, and ends with it', cat.out === text && cat.status.status === 'Success', `${cat.out.length} of ${text.length}`);
    // The client writes a size's names in lower case.
    const screen = collects();
    Object.assign(screen.stream, { rows: 33, columns: 44 });
    const socket = await new k8s.Exec(config).exec(NS, 'shell', 'c', ['/shell', 'size'], screen.stream, null, new PassThrough(), true);
    await comes('a terminal has its size', () => screen.text().includes('33 44'));
    Object.assign(screen.stream, { rows: 55, columns: 66 });
    screen.stream.emit('resize');
    await comes('a terminal is resized', () => screen.text().includes('55 66'));
    socket.close();
    const wrong = await new k8s.Exec(config).exec(NS, 'nobody', 'c', ['/shell'], screen.stream, null, null, false).catch((error) => error.message);
    told('exec in no pod', String(wrong).includes('404'), wrong);
}

async function attach(config) {
    const [stdin, out] = [new PassThrough(), collects()];
    const socket = await new k8s.Attach(config).attach(NS, 'cat', 'c', out.stream, null, stdin, false);
    stdin.write('attached\n');
    await comes('attach', () => out.text() === 'attached\n');
    socket.close();
}

/** A local port of the client's own making, as its examples make one. */
async function forwarded(open) {
    const server = createServer((socket) => void open(socket));
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const client = createConnection(server.address().port, '127.0.0.1');
    const answer = collects();
    client.pipe(answer.stream);
    client.write('GET /forwarded HTTP/1.1\r\nHost: a\r\n\r\n');
    await comes('port-forward', () => answer.text().includes('GET /forwarded'));
    client.destroy();
    server.close();
}

/** Gives the log that is followed: it ends with its pod. */
async function logs(config, core) {
    const [follower, some] = [collects(), collects()];
    const log = new k8s.Log(config);
    await log.log(NS, 'count', 'c', follower.stream, { follow: true });
    await comes('logs are followed', () => follower.text().split('\n').length > 5);
    same('from their begin', follower.text().split('\n').slice(0, 2), ['line 0', 'line 1']);
    await log.log(NS, 'count', 'c', some.stream, { tailLines: 2, timestamps: true });
    await comes('the last lines, with times', () => /^(\d{4}-\d\d-\d\dT[\d:.]+Z line \d+\n){2}$/.test(some.text()));
    same('so many bytes', await core.readNamespacedPodLog({ namespace: NS, name: 'count', limitBytes: 9 }), 'line 0\nli');
    await refused('logs of no container', core.readNamespacedPodLog({ namespace: NS, name: 'count', container: 'none' }), 400, 'BadRequest', 'container none is not valid for pod count');
    return follower;
}

async function copies(config) {
    const here = `${process.env.WORK}/here`;
    const back = `${process.env.WORK}/back`;
    mkdirSync(`${here}/deep`, { recursive: true });
    writeFileSync(`${here}/deep/file`, 'carried\n'.repeat(50_000));
    const cp = new k8s.Cp(config);
    await cp.cpToPod(NS, 'tar', 'c', here, '/data');
    await comes('cp to a pod', async () => (await runs(config, ['/usr/bin/tar', 'show', '/data/deep/file'], { of: 'tar' })).out.length === 400_000);
    await cp.cpFromPod(NS, 'tar', 'c', 'deep', back, '/data');
    await comes('and from it', () => {
        try {
            return readFileSync(`${back}/deep/file`, 'utf8') === 'carried\n'.repeat(50_000);
        } catch {
            return false;
        }
    });
}

async function metrics(config, core) {
    const source = new k8s.Metrics(config);
    const positive = (quantity) => /^[1-9]\d*[a-zA-Z]*$/.test(quantity);
    await comes("a node's use", async () => (await source.getNodeMetrics().catch(() => ({ items: [] }))).items.some(({ usage }) => positive(usage.cpu) && positive(usage.memory)));
    const [node] = await k8s.topNodes(core);
    told('what a node has', node.CPU.Capacity > 0 && node.Memory.Capacity > 0, node.Node.metadata.name);
    // The client adds up each container; one without a measurement is not yet there.
    const used = async () => (await k8s.topPods(core, source, NS)).find(({ Pod, Memory }) => Pod.metadata.name === 'count' && Memory.CurrentUsage > 0);
    const found = await comes("a pod's use", () => used().catch(() => null));
    same('by its containers', found?.Containers.map(({ Container }) => Container), ['c']);
}

export async function pods(config) {
    const core = config.makeApiClient(k8s.CoreV1Api);
    const mounts = { image: 'knarr.local/tar:v1', volumeMounts: [{ name: 'v', mountPath: '/data' }] };
    const all = [pod('shell', ['serve', '8080']), pod('count', ['count']), pod('cat', ['cat'], { stdin: true }), pod('tar', ['wait'], mounts)];
    for (const body of all) await core.createNamespacedPod({ namespace: NS, body });
    for (const { metadata } of all) await readyInTime(config, metadata.name);
    told('pods get ready', true);
    await exec(config);
    await attach(config);
    const forward = new k8s.PortForward(config);
    await forwarded((socket) => forward.portForward(NS, 'shell', [8080], socket, null, socket));
    await core.createNamespacedService({ namespace: NS, body: { metadata: { name: 'shell' }, spec: { selector: { app: 'shell' }, ports: [{ port: 80, targetPort: 8080 }] } } });
    await forwarded((socket) => forward.portForwardService(NS, 'shell', [8080], socket, null, socket));
    const followed = await logs(config, core);
    await copies(config);
    await metrics(config, core);
    const through = await core.connectGetNamespacedPodProxyWithPath({ namespace: NS, name: 'shell:8080', path: 'through' });
    told("the API's proxy of a pod", through.includes('GET /through'), through);
    const gone = await core.deleteNamespacedPod({ namespace: NS, name: 'shell' });
    told("a pod's deletion gives the pod", gone.metadata.deletionTimestamp instanceof Date, JSON.stringify(gone));
    const eviction = { metadata: { name: 'count' } };
    same('an eviction', (await core.createNamespacedPodEviction({ namespace: NS, name: 'count', body: eviction })).kind, 'Status');
    await comes('a followed log ends with its pod', () => followed.ended());
}
