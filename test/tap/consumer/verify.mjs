// verify.mjs DIRECTORY: verifies recorded webhooks with the libraries that are installed in DIRECTORY/node_modules.
//
// Run by 019_consumer_library.pl. stdin: a JSON object a line: library (whose class Webhook is used), secret, options (of the class),
// headers, body (its bytes in base64), later (how many seconds after now it is verified).
// stdout: a line for each: "ok" and what the library has parsed, as JSON in base64; or "error" and its text. Separated by a tab.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const require = createRequire(`${process.argv[2]}/`);
const now = Date.now;

// The library's part alone: no other error may pass for a refusal.
function verify({ library, secret, options, headers, body, later }) {
    const { Webhook } = require(library);

    Date.now = () => now() + 1000 * (later ?? 0);
    try {
        return { parsed: new Webhook(secret, options).verify(Buffer.from(body, 'base64'), headers) };
    } catch (error) {
        return { refusal: `${error.name}: ${error.message}` };
    } finally {
        Date.now = now;
    }
}

for await (const line of createInterface({ input: process.stdin })) {
    const { parsed, refusal } = verify(JSON.parse(line));

    console.log(refusal === undefined
        ? `ok\t${Buffer.from(JSON.stringify(parsed)).toString('base64')}`
        : `error\t${refusal.replace(/\s+/g, ' ')}`);
}
