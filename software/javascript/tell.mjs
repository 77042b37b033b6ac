// Lines as `checks.py` writes them, and what the client's callbacks are turned into: promises that end in time.
import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';

const { OUT } = process.env;
export const k8s = await import(`${OUT}/javascript/node_modules/@kubernetes/client-node/dist/index.js`);
export const NS = 'javascript';
// Of everything that is waited for.
const PATIENCE_MS = 30_000;

export function told(what, good, detail = '') {
    console.log(`${good ? 'ok' : 'WRONG'} ${what}`);
    if (!good) console.log(String(detail).replaceAll(/^/gm, '    '));
    return good;
}

export function same(what, is, wanted) {
    // As JSON: the client's objects are of classes of its own.
    const [found, expected] = [is, wanted].map((value) => JSON.stringify(value));
    return told(what, isDeepStrictEqual(found && JSON.parse(found), expected && JSON.parse(expected)), `is     ${found}\nwanted ${expected}`);
}

/** Whether a request failed with this code, and with a Status that says so. */
export async function refused(what, request, code, reason, text = '') {
    try {
        await request;
        return told(what, false, 'it was taken');
    } catch (error) {
        const status = typeof error.body === 'string' ? JSON.parse(error.body) : (error.body ?? {});
        return told(what, error.code === code && status.code === code && status.reason === reason && status.message.includes(text), error.stack);
    }
}

export async function inTime(what, promise) {
    const late = sleep(PATIENCE_MS, undefined, { ref: false }).then(() => {
        throw new Error(`${what}: not in time`);
    });
    return Promise.race([promise, late]);
}

/** What comes about by itself. */
export async function comes(what, condition) {
    const end = Date.now() + PATIENCE_MS;
    let found;
    while (!(found = await condition()) && Date.now() < end) await sleep(100);
    told(what, found, `not within ${PATIENCE_MS} ms`);
    return found;
}

/** A stream to write to, and what was written. */
export function collects() {
    const stream = new PassThrough();
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    return { stream, text: () => Buffer.concat(parts).toString(), ended: () => stream.readableEnded };
}

/** The answer of `check`, which kills knarr and starts it again. */
export async function knarrIsKilled() {
    const answers = createInterface(process.stdin);
    console.log('KILL');
    await new Promise((resolve) => answers.once('line', resolve));
    answers.close();
}
