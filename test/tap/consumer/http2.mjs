// http2.mjs DIRECTORY: a receiver of webhooks that speaks HTTP/2 and HTTP/1.1 over TLS, with DIRECTORY/cert.pem and key.pem.
//
// Run by 028_http2.pl. Writes its port to DIRECTORY/port, and a line for each request to DIRECTORY/requests before it answers: the HTTP version, the
// number of the connection, webhook-id, aggregate type and event type, separated by tabs. Ends when stdin does. An event type says how it is
// answered: Early (before the body has been read), Goaway (answered, and the connection takes nothing more), Refused (the first time
// its stream is refused, RST_STREAM), Broken (the first time the connection is cut in the middle of the answer); all others 200.
import { appendFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { constants, createSecureServer } from 'node:http2';

const directory = process.argv[2];
const sessions = new Map();
const seen = new Set();
const server = createSecureServer({
    key: readFileSync(`${directory}/key.pem`),
    cert: readFileSync(`${directory}/cert.pem`),
    allowHTTP1: true,
    settings: { maxConcurrentStreams: 100 },
});

function connection(key) {
    if (!sessions.has(key)) {
        sessions.set(key, sessions.size + 1);
    }
    return sessions.get(key);
}

server.on('request', (request, response) => {
    const { headers, httpVersion, stream } = request;
    const id = headers['webhook-id'];
    const type = headers['x-event-type'];
    const first = !seen.has(id);
    const session = stream?.session;

    seen.add(id);
    appendFileSync(`${directory}/requests`,
        `${[httpVersion, connection(session ?? request.socket), id, headers['x-aggregate-type'], type].join('\t')}\n`);
    request.on('error', () => {});
    response.on('error', () => {});
    if (session && first && type === 'Refused') {
        stream.close(constants.NGHTTP2_REFUSED_STREAM);
        return;
    }
    if (session && first && type === 'Broken') {
        response.writeHead(200, { 'content-length': 1000 });
        response.write('x');
        setImmediate(() => session.destroy());
        return;
    }
    if (type === 'Early') {
        response.end('early');
        return;
    }
    request.resume();
    request.on('end', () => {
        response.end('ok');
        if (session && first && type === 'Goaway') {
            session.goaway(constants.NGHTTP2_NO_ERROR);
            session.close();
        }
    });
});
server.on('sessionError', () => {});
server.listen(0, '127.0.0.1', () => {
    writeFileSync(`${directory}/port.new`, String(server.address().port));
    renameSync(`${directory}/port.new`, `${directory}/port`);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
