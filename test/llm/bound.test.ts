// The bound against a provider that does its worst: a token for every byte, of the text or of its NFKC form, every
// template at its widest, every token at the dearest rate. FC_SEED repeats a run, FC_RUNS lengthens it.
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { reserveTogether, settleTogether } from "../../src/budgets/coalesced.ts";
import { AppError } from "../../src/errors.ts";
import {
  type Bound,
  bodyWithin,
  boundOf,
  DEFAULT_MAX_TOKENS,
  FREE_FIELDS,
  IMAGE_TOKENS,
  TOOL_TOKENS,
  TOOLS_TOKENS,
} from "../../src/llm/bound.ts";
import { MESSAGE_TOKENS, REQUEST_TOKENS, textTokensBound } from "../../src/llm/request.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env["FC_RUNS"] ?? 1_000);
console.info(`FC_SEED=${seed}`);

// The adversary.

// biome-ignore lint/suspicious/noExplicitAny: a request is what a stranger sent
type Json = any;

/** One token per byte, of the text as it is or after NFKC. */
const tokensOf = (text: string) =>
  Math.max(Buffer.byteLength(text), Buffer.byteLength(text.normalize("NFKC")));

/** JSON as Python's json.dumps writes it, without escapes for what is not ASCII. */
function python(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`)
    .join(", ")}}`;
}

function rendered(message: Json): string {
  const parts = typeof message.content === "string" ? [{ text: message.content }] : (message.content ?? []);
  const calls = (message.tool_calls ?? []).map(
    (call: Json) => `${call.function.name}${python(JSON.parse(call.function.arguments))}`,
  );
  const texts = parts.map((part: Json) => part.text ?? part.refusal ?? "");
  return [message.role, message.name, message.tool_call_id, ...texts, ...calls].join("\n");
}

/** All that the adversary bills as input. */
function inputTokensOf(body: Json): number {
  const tools = [...(body.tools ?? []), ...(body.functions ?? [])];
  const images = body.messages.flatMap((message: Json) =>
    Array.isArray(message.content) ? message.content.filter((part: Json) => part.type === "image_url") : [],
  ).length;
  const wide = [(tool: Json) => JSON.stringify(tool, null, 4), python].map((write) =>
    [
      ...tools.map(write),
      ...(body.response_format ? [write(body.response_format)] : []),
      ...body.messages.map(rendered),
    ].join("\n"),
  );
  return (
    Math.max(...wide.map(tokensOf)) +
    REQUEST_TOKENS +
    MESSAGE_TOKENS * body.messages.length +
    (tools.length > 0 ? TOOLS_TOKENS + TOOL_TOKENS * tools.length : 0) +
    images * IMAGE_TOKENS
  );
}

// What it is sent.

const unit = fc.oneof(
  { weight: 4, arbitrary: fc.string({ unit: "binary", maxLength: 20 }) },
  { weight: 2, arbitrary: fc.string({ unit: "grapheme", maxLength: 20 }) },
  fc
    .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 8 })
    .map((units) => String.fromCharCode(...units)),
  fc.constantFrom(
    "\ufdfa",
    "😀",
    "漢字かな交じり文",
    "한국어",
    "\ud800",
    "\udc00",
    "\r\u0323\u0304",
    '"',
    "\\r",
    "\\",
  ),
  fc.constantFrom("\u0323\u0304", "e\u0301\u0323", "ﬁ①㍿", "\u0000", "[1,1,1]", "aaaaaaaa", "<\u0338"),
);
const text = fc
  .tuple(fc.array(unit, { maxLength: 6 }), fc.integer({ min: 1, max: 40 }))
  .map(([units, times]) => units.join("").repeat(times));
const schema = fc.jsonValue({ maxDepth: 5, stringUnit: "binary" });
const image = fc.constant({
  type: "image_url",
  image_url: { url: `data:image/png;base64,${"A".repeat(5_000)}`, detail: "high" },
});
const part = fc.oneof(
  { weight: 5, arbitrary: text.map((each) => ({ type: "text", text: each })) },
  text.map((each) => ({ type: "refusal", refusal: each })),
  image,
);
const toolCall = fc.record({
  id: text,
  type: fc.constant("function"),
  function: fc.record({ name: text, arguments: schema.map((each) => JSON.stringify(each)) }),
});
const message = fc.record(
  {
    role: fc.constantFrom("system", "developer", "user", "assistant", "tool"),
    content: fc.oneof(text, fc.array(part, { maxLength: 4 }), fc.constant(null)),
    name: text,
    tool_call_id: text,
    tool_calls: fc.array(toolCall, { maxLength: 3 }),
  },
  { requiredKeys: ["role", "content"] },
);
const tool = fc.record({
  type: fc.constantFrom("function", "custom"),
  function: fc.record({ name: text, description: text, parameters: schema }),
});
const tokens = fc.integer({ min: 1, max: 10_000 });
const chat = fc.record(
  {
    model: fc.constant("m"),
    messages: fc.array(message, { minLength: 1, maxLength: 5 }),
    tools: fc.array(tool, { maxLength: 4 }),
    functions: fc.array(fc.record({ name: text, parameters: schema }), { maxLength: 2 }),
    response_format: fc.record({ type: fc.constant("json_schema"), json_schema: schema }),
    n: fc.integer({ min: 1, max: 8 }),
    max_tokens: tokens,
    max_completion_tokens: tokens,
    temperature: fc.constant(1),
    stop: fc.array(text, { maxLength: 2 }),
    metadata: fc.dictionary(text, text, { maxKeys: 2 }).map((each) => JSON.parse(JSON.stringify(each))),
  },
  { requiredKeys: ["model", "messages"] },
);

const plainBody = (extra: object = {}) => ({
  model: "m",
  max_tokens: 50,
  messages: [{ role: "user", content: "hi" }],
  ...extra,
});

/** Each of the answers that were asked for, as long as the limit that was sent allows. */
const outputTokensOf = (sent: Json) =>
  (sent.n ?? 1) * Math.max(sent.max_tokens ?? 0, sent.max_completion_tokens ?? 0);

describe("the bound holds", () => {
  test("for any body: no token more than it, on either side", () => {
    let folded = 0;
    fc.assert(
      fc.property(chat, (body) => {
        const bound = boundOf(body);
        const sent = JSON.parse(bodyWithin(bound));
        expect(inputTokensOf(sent)).toBeLessThanOrEqual(bound.inputTokensBound);
        expect(outputTokensOf(sent)).toBeLessThanOrEqual(bound.maxOutputTokens);
        if (inputTokensOf(sent) > Buffer.byteLength(JSON.stringify(sent)) + REQUEST_TOKENS) folded += 1;
      }),
      { seed, numRuns: RUNS },
    );
    // The adversary is one: bytes alone would not have held it.
    expect(folded).toBeGreaterThan(20);
  });

  test("in money: what it bills at the dearest rates is never more than the hold", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "1000000" });
    let calls = 0;
    await fc.assert(
      fc.asyncProperty(chat, fc.nat(3), fc.boolean(), async (body, kind, reasons) => {
        calls += 1;
        const bound = boundOf(body);
        const asked = { provider: "p", model: "m", idempotencyKey: `call ${calls}` };
        const hold = await reserveTogether(database.service, tenantId, { ...asked, ...bound, images: 0 });
        const sent = JSON.parse(bodyWithin(bound, hold.max_output_tokens));
        const inputTokens = inputTokensOf(sent);
        const outputTokens = outputTokensOf(sent);
        const usage = {
          inputTokens,
          outputTokens,
          cachedInputTokens: kind === 1 ? inputTokens : 0,
          cacheWrite5mTokens: kind === 2 ? inputTokens : 0,
          cacheWrite1hTokens: kind === 3 ? inputTokens : 0,
          reasoningTokens: reasons ? outputTokens : 0,
        };
        const settled = await settleTogether(database.service, tenantId, hold.id, usage);
        expect(settled.over_hold_nanousd).toBe(0n);
        expect(settled.cost_nanousd).toBeLessThanOrEqual(hold.estimated_cost_nanousd);
        expect(settled.cost_nanousd).toBeGreaterThan(0n);
      }),
      { seed, numRuns: 100 },
    );
    expect((await database.superuser.query("select * from app.llm_check()")).rows).toEqual([]);
  });

  beforeAll(async () => {
    // Long prompts are dearer as a whole, writing to a cache too.
    const rates = {
      input: 1,
      cached_input: 0.1,
      cache_write_5m: 1.25,
      cache_write_1h: 2,
      output: 4,
      reasoning: 5,
    };
    for (const [unit, rate] of Object.entries(rates)) {
      await database.superuser.query(
        `insert into app.llm_prices (provider, model, unit, usd_per_million, prompt_tokens, valid, source)
         values ('p', 'm', $1, $2, '[0,2000)', '[2026-01-01,)', 'test'),
                ('p', 'm', $1, $2::numeric * 2, '[2000,)', '[2026-01-01,)', 'test')`,
        [unit, rate],
      );
    }
  });

  test("where an escape stands before marks that would melt into its letter", () => {
    const body = plainBody({ messages: [{ role: "user", content: "\r\u0323\u0304\ufdfa".repeat(2_000) }] });
    expect(boundOf(body).inputTokensBound).toBeGreaterThanOrEqual(inputTokensOf(body));
    const melted = JSON.stringify("\r\u0323\u0304\ufdfa".repeat(2_000)).normalize("NFKC");
    expect(Buffer.byteLength(melted)).toBeLessThan(tokensOf("\r\u0323\u0304\ufdfa".repeat(2_000)));
    expect(textTokensBound(JSON.stringify("\\r\ufdfa"))).toBeGreaterThanOrEqual(tokensOf("\\r\ufdfa"));
  });

  test("where a text is folded in pieces, wherever they meet", () => {
    const marks = fc.constantFrom(
      "\u0323",
      "\u0304",
      "\u0301",
      "\u0308",
      "\u0345",
      "\uff9e",
      "\u3099",
      "a",
      "ế",
      "ᾂ",
    );
    const others = fc.constantFrom(
      "α",
      "ᄀ",
      "ᅡ",
      "ᆨ",
      "각",
      "か",
      "\u09c7",
      "\u09be",
      "\u{1d15e}",
      "\ufdfa",
      "r",
      "ｶ",
    );
    const piece = fc.string({ unit: fc.oneof(marks, others), minLength: 400, maxLength: 700 });
    fc.assert(
      fc.property(fc.array(piece, { minLength: 1, maxLength: 6 }), (pieces) => {
        const whole = pieces.join("");
        const bound = textTokensBound(whole);
        expect(bound).toBeGreaterThanOrEqual(tokensOf(whole));
        expect(bound).toBeLessThanOrEqual(tokensOf(whole) * 1.05 + 16);
      }),
      { seed, numRuns: 300 },
    );
    // At a seam the accent had its letter, in the whole the dot below takes it: one byte more.
    const torn = `${"\ufdfa".repeat(511)}\u00e1\u0323${"\ufdfa".repeat(500)}`;
    expect(textTokensBound(torn)).toBeGreaterThanOrEqual(tokensOf(torn));
    const prose = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ".repeat(100);
    expect(textTokensBound(prose)).toBe(Buffer.byteLength(prose));
  });

  test("where a template writes the arguments of a call with more space than the model did", () => {
    const call = {
      id: "c",
      type: "function",
      function: { name: "f", arguments: JSON.stringify(Array(3_000).fill(1)) },
    };
    const body = plainBody({ messages: [{ role: "assistant", content: null, tool_calls: [call] }] });
    expect(inputTokensOf(body)).toBeGreaterThan(
      Buffer.byteLength(JSON.stringify(body)) + REQUEST_TOKENS + MESSAGE_TOKENS,
    );
    expect(boundOf(body).inputTokensBound).toBeGreaterThanOrEqual(inputTokensOf(body));
  });

  test("and is not wide without need: English costs its bytes, an image its constant", () => {
    const words = "Word these findings. ".repeat(1_000);
    const body = plainBody({ messages: [{ role: "user", content: words }] });
    expect(boundOf(body).inputTokensBound).toBeLessThan(words.length + REQUEST_TOKENS + 200);
    const url = `data:image/jpeg;base64,${"A".repeat(1_000_000)}`;
    const seen = boundOf(
      plainBody({ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url } }] }] }),
    );
    expect(seen.images).toBe(1);
    expect(seen.inputTokensBound).toBeLessThan(IMAGE_TOKENS + REQUEST_TOKENS + 200);
  });

  test("and nothing hides from it under the name of an image", () => {
    const hidden = "x".repeat(9_000);
    const tool = { type: "function", function: { name: "f", parameters: { image_url: hidden } } };
    expect(boundOf(plainBody({ tools: [tool] })).inputTokensBound).toBeGreaterThan(9_000);
    const text = { type: "text", text: "x", image_url: { url: "data:image/png;base64,AAAA" } };
    expect(refusalOf(plainBody({ messages: [{ role: "user", content: [text] }] })).detail).toMatchObject({
      field: "messages.0.content.0.image_url",
    });
  });
});

function refusalOf(body: unknown): AppError {
  try {
    boundOf(body);
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  return expect.fail(`it has a bound: ${JSON.stringify(body).slice(0, 200)}`);
}

const asked = (content: unknown[], more: object = {}) =>
  plainBody({ messages: [{ role: "user", content, ...more }] });

describe("what has no bound is refused by name", () => {
  test.each<[string, object]>([
    ["previous_response_id", plainBody({ previous_response_id: "resp_1" })],
    ["conversation", plainBody({ conversation: "conv_1" })],
    ["prompt", plainBody({ prompt: { id: "pmpt_1" } })],
    ["web_search_options", plainBody({ web_search_options: {} })],
    ["prediction", plainBody({ prediction: { type: "content", content: "x" } })],
    ["audio", plainBody({ audio: { voice: "alloy", format: "mp3" } })],
    ["modalities", plainBody({ modalities: ["text", "audio"] })],
    ["service_tier", plainBody({ service_tier: "auto" })],
    ["service_tier", plainBody({ service_tier: "constructor" })],
    ["models", plainBody({ models: ["dearer"] })],
    ["speed", plainBody({ speed: "fast" })],
    ["constructor", plainBody({ constructor: 1 })],
    ["__proto__", JSON.parse('{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"n":9}}')],
    ["tools.0", plainBody({ tools: [{ type: "web_search" }] })],
    ["tools.1", plainBody({ tools: [{ type: "function" }, { type: "web_search_20250305", max_uses: 2 }] })],
    ["messages.0.audio", asked([], { audio: { id: "audio_1" } })],
    [
      "messages.0.__proto__",
      JSON.parse('{"model":"m","messages":[{"role":"user","__proto__":{"content":"x"}}]}'),
    ],
    ["messages.0.content.0", asked([{ type: "file", file: { file_id: "file-1" } }])],
    [
      "messages.0.content.0",
      asked([{ type: "file", file: { file_data: "data:application/pdf;base64,AA" } }]),
    ],
    [
      "messages.0.content.1",
      asked([
        { type: "text", text: "x" },
        { type: "input_audio", input_audio: {} },
      ]),
    ],
    ["messages.0.content.0", asked([{ type: "image_url", image_url: { url: "https://a.test/x.png" } }])],
    [
      "messages.0.content.0",
      asked([{ type: "image_url", image_url: { url: "data:application/pdf;base64,AA" } }]),
    ],
    ["messages.0.content.0", asked([{ type: "image_url" }])],
    ["messages.0.content.0", asked([{ type: "document" }])],
  ])("%s", (field, body) => {
    const refused = refusalOf(body);
    expect(refused).toMatchObject({ code: "unbounded_request", status: 402, sqlstate: undefined });
    expect(refused.detail).toEqual({ reason: "unbounded_request", field });
    expect(refused.hint).toEqual(expect.any(String));
  });

  test("but not where it is null, which is how clients say that it is not there", () => {
    const body = plainBody({
      previous_response_id: null,
      audio: null,
      tools: null,
      n: null,
      service_tier: null,
    });
    expect(boundOf(body)).toMatchObject({ answers: 1, serviceTier: "standard", maxOutputTokens: 50 });
  });

  test.each<[string, unknown]>([
    ["no object", null],
    ["a list", []],
    ["a text", "{}"],
    ["no model", plainBody({ model: undefined })],
    ["no message", plainBody({ messages: [] })],
    ["a message of nobody", plainBody({ messages: [{ content: "x" }] })],
    ["content that is a number", plainBody({ messages: [{ role: "user", content: 7 }] })],
    ["no answer", plainBody({ n: 0 })],
    ["half an answer", plainBody({ n: 1.5 })],
    ["a million answers", plainBody({ n: 1_000_000 })],
    ["a limit of nothing", plainBody({ max_tokens: 0 })],
    ["a negative limit", plainBody({ max_tokens: -1 })],
    ["a limit without end", plainBody({ max_tokens: JSON.parse("1e400") })],
    ["a limit in words", plainBody({ max_completion_tokens: "50" })],
    ["a depth of 100", plainBody({ metadata: JSON.parse(`${"[".repeat(100)}${"]".repeat(100)}`) })],
    ["a depth of half a million", JSON.parse(`${"[".repeat(500_000)}${"]".repeat(500_000)}`)],
  ])("%s is no chat completion", (_, body) => {
    expect(refusalOf(body)).toMatchObject({ code: "invalid_request", status: 400 });
  });

  test("fields that cost nothing go through as they came", () => {
    const body = plainBody(Object.fromEntries([...FREE_FIELDS].map((name) => [name, { any: [1, "ü"] }])));
    expect(JSON.parse(bodyWithin(boundOf(body)))).toEqual(body);
  });
});

describe("the limit of the answer is always sent", () => {
  const limits = (extra: object, granted?: (bound: Bound) => number) => {
    const bound = boundOf({ ...plainBody(), max_tokens: undefined, ...extra });
    const { max_tokens, max_completion_tokens } = JSON.parse(bodyWithin(bound, granted?.(bound)));
    return [bound.maxOutputTokens, max_tokens, max_completion_tokens];
  };

  test("as asked for, of either name; by default where it was not", () => {
    expect(limits({ max_tokens: 70 })).toEqual([70, 70, undefined]);
    expect(limits({ max_completion_tokens: 70 })).toEqual([70, undefined, 70]);
    expect(limits({ max_tokens: 70, max_completion_tokens: 90 })).toEqual([90, 70, 90]);
    expect(limits({})).toEqual([DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS, undefined]);
    expect(limits({ max_tokens: null, n: 3 })).toEqual([
      3 * DEFAULT_MAX_TOKENS,
      DEFAULT_MAX_TOKENS,
      undefined,
    ]);
  });

  test("lower where the hold was clamped, for all answers together", () => {
    expect(limits({ max_tokens: 70 }, () => 30)).toEqual([70, 30, undefined]);
    expect(limits({ max_tokens: 70, max_completion_tokens: 20 }, () => 30)).toEqual([70, 30, 20]);
    expect(limits({ max_tokens: 70, n: 4 }, () => 31)).toEqual([280, 7, undefined]);
    expect(limits({ max_tokens: 70 }, () => 900)).toEqual([70, 70, undefined]);
    expect(() => limits({ max_tokens: 70, n: 4 }, () => 3)).toThrow("no answer fits into 3 tokens");
  });

  test("and of a key that came twice the last is both priced and sent", () => {
    const bound = boundOf(
      JSON.parse(
        '{"max_tokens":9000,"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":50}',
      ),
    );
    expect(bound.maxOutputTokens).toBe(50);
    expect(bodyWithin(bound).match(/max_tokens":\d+/g)).toEqual(['max_tokens":50']);
  });
});

describe("a megabyte does not stall the process", () => {
  const MB = 1_000_000;
  const say = (content: string) => plainBody({ messages: [{ role: "user", content }] });
  test.each<[string, () => unknown]>([
    ["of one letter", () => say("a".repeat(MB))],
    ["of U+FDFA", () => say("\ufdfa".repeat(MB / 3))],
    ["of half characters", () => say("\ud800".repeat(MB / 3))],
    ["of backslashes before marks", () => say("\\\u0323".repeat(MB / 3))],
    ["of quotes", () => say('"'.repeat(MB))],
    ["of commas", () => say(",".repeat(MB))],
    ["of emoji", () => say("😀".repeat(MB / 4))],
    ["of marks", () => say(`a${"\u0323\u0301".repeat(MB / 4)}`)],
    [
      "of messages",
      () => plainBody({ messages: Array(Math.floor(MB / 30)).fill({ role: "user", content: "" }) }),
    ],
    ["of parts", () => asked(Array(Math.floor(MB / 24)).fill({ type: "text", text: "" }))],
    ["of tools", () => plainBody({ tools: Array(MB / 20).fill({ type: "function" }) })],
    [
      "of numbers in a schema",
      () => plainBody({ tools: [{ type: "function", enum: Array(MB / 2).fill(1) }] }),
    ],
    [
      "of fields",
      () => plainBody({ metadata: Object.fromEntries(Array.from({ length: MB / 12 }, (_, n) => [n, 1])) }),
    ],
  ])("%s: far less than 250 ms of CPU", (_, make) => {
    const body = make();
    const before = process.cpuUsage();
    boundOf(body);
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1_000).toBeLessThan(250);
  });
});
