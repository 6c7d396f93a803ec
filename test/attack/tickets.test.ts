// Whatever is given for a ticket and is not one opens nothing, and the refusal tells nothing of what was given.
import { createHmac, randomBytes, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mintTicket, ticketPads } from "../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";
import { errorBytes } from "./support/errors.ts";
import { openSession, type Session } from "./support/session.ts";
import { HOSTILE_SETTINGS } from "./support/settings.ts";
import { bitFlips, cuts, inSeconds, replaced, signed, slips } from "./support/tickets.ts";

const database = testDatabase();
let mine = "";
let foreign = "";
let service: Session;
const sessions: Session[] = [];
/** Every refusal that was met, in all of its fields. */
const refusals = new Set<string>();

async function connect(): Promise<Session> {
  const session = await openSession({ connectionString: database.url("holdfast_service") });
  sessions.push(session);
  return session;
}

beforeAll(async () => {
  mine = (await database.addTenant()).tenantId;
  foreign = (await database.addTenant()).tenantId;
  service = await connect();
});

afterAll(async () => {
  await Promise.all(sessions.map((session) => session.end()));
});

/** It is refused wherever it is given, says the same few words each time, and nothing was entered. */
async function opensNothing(ticket: string | null, session = service): Promise<void> {
  const { error } = await session.ask("select app.enter($1, $2)", [mine, ticket]);
  expect(error, `accepted: ${ticket}`).toBeInstanceOf(pg.DatabaseError);
  expect(error, JSON.stringify(ticket)).toMatchObject({ code: "RL101", message: "rls_enforcement_failed" });
  expectNothingOf(errorBytes(error), ticket ?? "");
  refusals.add(errorBytes(error));
}

/** Neither tenant, nor anything of a ticket that is long enough to be told from chance, nor the words of a cast. */
function expectNothingOf(said: string, ticket: string): void {
  const text = said.toLowerCase();
  const secrets = [mine, foreign, mine.replaceAll("-", ""), foreign.replaceAll("-", "")];
  secrets.push(
    ...ticket.split(".").filter((part) => part.length >= 8 && part.length < 1_000 && /\w/.test(part)),
  );
  for (const secret of secrets) expect(text).not.toContain(secret.toLowerCase().trim());
  expect(text).not.toMatch(/invalid input|out of range|cannot cast|syntax|22p02|22003/);
}

/** After them all, and inside one transaction that goes on, the session is nobody's. */
async function nothingWasEntered(session = service): Promise<void> {
  await session.ask("begin; set local row_security = on; set local role holdfast_tenant");
  const { error } = await session.ask("select from app.tenants");
  expect(error).toMatchObject({ code: "RL101" });
  await session.ask("rollback");
  expect(
    (await session.ask("select coalesce(current_setting('app.tenant', true), '') as tenant")).rows,
  ).toEqual([{ tenant: "" }]);
}

const parts = () => ({ version: "v1", kid: "1", tenant: mine, pid: "0", expiry: inSeconds(60) });

/** What a person, a broken client or a fuzzer puts in the place of a number, an id or a signature. */
const WORDS = [
  ...[
    "",
    " ",
    "0",
    "00",
    "-1",
    "+1",
    "1e3",
    "1.5",
    "0x1",
    "NaN",
    "infinity",
    "null",
    "true",
    "'",
    '"',
    "\\",
    "%00",
  ],
  ...[
    "2147483648",
    "9".repeat(9),
    "9".repeat(10),
    "9".repeat(12),
    "9".repeat(13),
    "9".repeat(40),
    "1 ",
    " 1",
  ],
  ...[
    "\u0661\u0662",
    "\uff11",
    "\u00a0",
    "\u200b1",
    "1\u0301",
    "\ud83d\ude00",
    "\ufeff1",
    "\r\n",
    "\t",
    "\u007f",
  ],
  ...[
    "00000000-0000-0000-0000-000000000000",
    "{}",
    "()",
    "' or true --",
    "$1",
    "*",
    ".",
    "..",
    "a".repeat(64),
  ],
  ...["0".repeat(64), "f".repeat(64), "g".repeat(64), "A".repeat(64)],
];

describe("a ticket that is not whole", () => {
  test("the whole one opens its tenant", async () => {
    for (const ticket of [signed(parts()), mintTicket(TEST_TICKET_KEY, mine, service.pid)]) {
      const { error } = await service.ask("select app.enter($1, $2)", [mine, ticket]);
      expect(error).toBeUndefined();
    }
  });

  test("cut short at any length", async () => {
    const ticket = signed(parts());
    expect(cuts(ticket).length).toBeGreaterThan(110);
    for (const cut of cuts(ticket)) await opensNothing(cut);
    await nothingWasEntered();
  });

  test("with any bit flipped", async () => {
    for (const ticket of [signed(parts()), mintTicket(TEST_TICKET_KEY, mine, service.pid)]) {
      for (const flipped of bitFlips(ticket)) await opensNothing(flipped);
    }
    await nothingWasEntered();
  });

  test("with any bit flipped, in a session that has set how SQL is read and told", async () => {
    const session = await connect();
    for (const text of HOSTILE_SETTINGS) expect(await session.ask(text)).toMatchObject({ error: undefined });
    expect(await session.ask("select app.enter($1, $2)", [mine, signed(parts())])).toMatchObject({
      error: undefined,
    });
    for (const ticket of [...bitFlips(signed(parts())), ...cuts(signed(parts()))]) {
      await opensNothing(ticket, session);
    }
    expect(session.heard.filter((said) => !said.includes("rls_enforcement_failed"))).toEqual([
      '{"enter":""}',
    ]);
  });

  test("with a character lost or doubled", async () => {
    for (const slip of slips(signed(parts()))) await opensNothing(slip);
  });

  test("with something else in any of its places, signed for it or not", async () => {
    const whole = parts();
    // Some of the words are good where they stand: no backend at all, and an expiry that is far away.
    const later = WORDS.filter(
      (word) => /^[1-9]\d{9,11}$/.test(word) && Number(word) > Number(inSeconds(60)),
    );
    const good = [signed(whole), ...later.map((expiry) => signed({ ...whole, expiry }))];
    const tickets = replaced(whole, WORDS).filter((ticket) => !good.includes(ticket));
    expect(tickets.length).toBeGreaterThan(400);
    for (const ticket of tickets) await opensNothing(ticket);
    await nothingWasEntered();
  });

  test("with parts after its own, signed so that the signature fits where it stands", async () => {
    // The signature is looked for in the sixth part, and all but the last 65 characters are signed: with n characters
    // and dots behind it, that is the body, its dot, and n - 1 characters of the signature itself. Who has the key and
    // tries some moments finds such a signature.
    for (const [after, inside] of [
      [".", 0],
      ["..", 1],
      [".0", 1],
      [".x.", 2],
    ] as const) {
      let ticket = "";
      for (let seconds = 60; ticket === ""; seconds += 1) {
        const body = `v1.1.${mine}.0.${inSeconds(seconds)}.`;
        for (let each = 0; each < 16 ** inside; each += 1) {
          const start = each.toString(16).padStart(inside, "0").slice(0, inside);
          const signature = createHmac("sha256", TEST_TICKET_KEY.secret)
            .update(body + start)
            .digest("hex");
          if (signature.startsWith(start)) ticket = `${body}${signature}${after}`;
        }
      }
      expect(ticket.length).toBeLessThan(137);
      await opensNothing(ticket);
    }
    await nothingWasEntered();
  });

  test.each<[string, () => string | null]>([
    ["null", () => null],
    ["a megabyte after it", () => signed(parts()) + "0".repeat(1_000_000)],
    ["a megabyte of dots", () => ".".repeat(1_000_000)],
    ["ten megabytes of nothing", () => " ".repeat(10_000_000)],
    ["its own text twice", () => signed(parts()).repeat(2)],
    ["a line before it", () => `x\n${signed(parts())}`],
    ["a line after it", () => `${signed(parts())}\n`],
    ["in capitals", () => signed(parts()).toUpperCase()],
    ["of a tenant in capitals", () => signed({ tenant: mine.toUpperCase() })],
    ["of a tenant without dashes", () => signed({ tenant: mine.replaceAll("-", "") })],
  ])("%s", async (_what, ticketOf) => {
    await opensNothing(ticketOf());
    await nothingWasEntered();
  });

  test("with a character of no bits, it does not even reach a function", async () => {
    const ticket = signed(parts());
    for (const text of [`${ticket}\0`, `\0${ticket}`, ticket.replace(".", "\0")]) {
      const { error } = await service.ask("select app.enter($1, $2)", [mine, text]);
      expect(error?.code).toMatch(/^(22021|RL101)$/);
      expectNothingOf(errorBytes(error), ticket);
    }
  });

  test("any text at all", async () => {
    const hex = fc.constantFrom(..."0123456789abcdef");
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 200 }).map((each) => each.replaceAll("\0", "")),
      fc.string({ unit: fc.constantFrom(..."v1.0123456789abcdef-"), maxLength: 140 }),
      fc
        .array(fc.oneof(fc.constantFrom(...WORDS), fc.string({ unit: hex, maxLength: 70 }), fc.uuid()), {
          maxLength: 8,
        })
        .map((each) => each.join(".")),
    );
    await fc.assert(
      fc.asyncProperty(text, (each) => opensNothing(each)),
      { numRuns: 1_000, seed: Number(process.env["TICKET_SEED"] ?? 20_261_120) },
    );
    await nothingWasEntered();
  });
});

describe("a whole ticket that is not good here", () => {
  const cases: [string, string, () => string][] = [
    ["of another tenant", "the ticket is for another tenant", () => signed({ tenant: foreign })],
    ["of nobody", "the ticket is for another tenant", () => signed({ tenant: randomUUID() })],
    [
      "of another backend",
      "the ticket is not valid",
      () => mintTicket(TEST_TICKET_KEY, mine, service.pid + 1),
    ],
    [
      "of a key that is not there",
      "the ticket is not valid",
      () => signed({ tenant: mine, kid: "999999999" }),
    ],
    ["signed with another key", "the ticket is not valid", () => signed({ tenant: mine }, randomBytes(32))],
    [
      "that expired a second ago",
      "the ticket has expired",
      () => signed({ tenant: mine, expiry: inSeconds(-1) }),
    ],
    ["that expired in 1970", "the ticket has expired", () => signed({ tenant: mine, expiry: "0" })],
  ];

  test.each(cases)("%s", async (_what, reason, ticketOf) => {
    const ticket = ticketOf();
    const { error } = await service.ask("select app.enter($1, $2)", [mine, ticket]);
    expect(error?.detail).toContain(reason);
    await opensNothing(ticket);
    const { rows } = await service.ask("select app.ticket_check($1) as good", [ticket]);
    expect(rows).toEqual([{ good: reason.includes("another tenant") }]);
    await nothingWasEntered();
  });

  test("one of another backend, taken from the session that it was made for", async () => {
    const other = await connect();
    const ticket = mintTicket(TEST_TICKET_KEY, mine, other.pid);
    expect(await other.ask("select app.enter($1, $2)", [mine, ticket])).toMatchObject({ error: undefined });
    await opensNothing(ticket);
    await nothingWasEntered();
  });

  test("one that was good a moment ago, in the same session", async () => {
    const ticket = signed({ tenant: mine, pid: String(service.pid), expiry: inSeconds(1) });
    expect(await service.ask("select app.enter($1, $2)", [mine, ticket])).toMatchObject({ error: undefined });
    await sleep(2_100);
    await opensNothing(ticket);
    await nothingWasEntered();
  });

  test("one of a key that has been retired meanwhile", async () => {
    const secret = randomBytes(32);
    const { ipad, opad } = ticketPads(secret);
    await database.superuser.query(
      "insert into app_private.ticket_keys (kid, ipad, opad, binding) values (7, $1, $2, 'none')",
      [ipad, opad],
    );
    const ticket = mintTicket({ kid: 7, secret }, mine, 0);
    expect(await service.ask("select app.enter($1, $2)", [mine, ticket])).toMatchObject({ error: undefined });
    await database.superuser.query("update app_private.ticket_keys set not_after = now() where kid = 7");
    await opensNothing(ticket);
  });

  test("one that names no backend, while its key wants one", async () => {
    const secret = randomBytes(32);
    const { ipad, opad } = ticketPads(secret);
    await database.superuser.query(
      "insert into app_private.ticket_keys (kid, ipad, opad) values (8, $1, $2)",
      [ipad, opad],
    );
    await opensNothing(mintTicket({ kid: 8, secret }, mine, 0));
    await nothingWasEntered();
    const bound = mintTicket({ kid: 8, secret }, mine, service.pid);
    expect(await service.ask("select app.enter($1, $2)", [mine, bound])).toMatchObject({ error: undefined });
    const { rows } = await service.ask("select app.ticket_binding(8) as eight, app.ticket_binding(1) as one");
    expect(rows).toEqual([{ eight: "backend", one: "none" }]);
  });

  test("one of a key that was retired after the transaction began", async () => {
    const secret = randomBytes(32);
    const { ipad, opad } = ticketPads(secret);
    await database.superuser.query(
      "insert into app_private.ticket_keys (kid, ipad, opad, binding) values (9, $1, $2, 'none')",
      [ipad, opad],
    );
    const ticket = mintTicket({ kid: 9, secret }, mine, 0);
    const session = await connect();
    const bindings = async () =>
      (await session.ask("select app.ticket_binding(9) as binding, app.ticket_check($1) as good", [ticket]))
        .rows;
    await session.ask("begin");
    expect(await session.ask("select app.enter($1, $2)", [mine, ticket])).toMatchObject({ error: undefined });
    expect(await bindings()).toEqual([{ binding: "none", good: true }]);

    await database.ops.query("select ops.ticket_key_retire(9, reason => 'stolen', after => '0')");
    expect(await bindings()).toEqual([{ binding: null, good: false }]);
    await opensNothing(ticket, session);
    await session.ask("rollback");
  });

  test("a good one does not open a tenant that it does not name", async () => {
    for (const tenantId of [foreign, randomUUID(), null]) {
      const { error } = await service.ask("select app.enter($1, $2)", [tenantId, signed(parts())]);
      expect(error).toMatchObject({ code: "RL101" });
      expectNothingOf(errorBytes(error), signed(parts()));
    }
    await nothingWasEntered();
  });
});

test("all of these were refused in a handful of words", () => {
  const reasons = new Set([...refusals].map((said) => JSON.parse(JSON.parse(said).detail).reason));
  expect([...reasons].sort()).toEqual([
    "the ticket has expired: is the clock of the caller right?",
    "the ticket is for another tenant",
    "the ticket is missing or malformed",
    "the ticket is not valid",
    "the ticket names no backend, and its key wants one",
  ]);
});
