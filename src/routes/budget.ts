// Holds of a tenant's own calls: money is held before a call, and settled after it, by the same ledger as ours.
import type { FastifyInstance } from "fastify";
import { z } from "zod";
import { reserveTogether, settleTogether } from "../budgets/coalesced.ts";
import { budgetStatus, extend, type HoldRequest, quote, release, type Usage } from "../budgets.ts";
import type { Db } from "../db.ts";
import { AppError } from "../errors.ts";
import { usdOf } from "../usd.ts";
import { Headers, Id, parse, tenantOf, within } from "./request.ts";

/** A text that a column can hold: no control characters, no half of a character. */
const Name = z
  .string()
  .min(1)
  .max(200)
  .refine((text) => text.isWellFormed() && !/\p{Cc}/u.test(text), "has a character that is none");
/** Counts are whole numbers: no fraction, no text, nothing that is not finite. */
const Tokens = z.int().min(0).max(100_000_000);
const Few = z.int().min(0).max(10_000);
const Ttl = z.int().min(1).max(3_600_000);

const Ask = z.strictObject({
  provider: Name,
  model: Name,
  input_tokens_bound: Tokens.min(1),
  max_output_tokens: Tokens,
  min_output_tokens: Tokens.min(1).optional(),
  service_tier: z.enum(["standard", "priority", "flex", "batch"]).optional(),
  images: Few.optional(),
  tool_calls: Few.optional(),
  api_key: Name.optional(),
  user_id: Name.optional(),
  tags: z.array(Name).max(20).optional(),
});
const Reserve = Ask.extend({
  /** In place of the header. */
  idempotency_key: Headers.shape["idempotency-key"],
  ttl_ms: Ttl.optional(),
});
const Settle = z.strictObject({
  input_tokens: Tokens,
  output_tokens: Tokens,
  cached_input_tokens: Tokens.default(0),
  cache_write_5m_tokens: Tokens.optional(),
  cache_write_1h_tokens: Tokens.optional(),
  reasoning_tokens: Tokens.optional(),
  images: Few.optional(),
  tool_calls: Few.optional(),
  final: z.boolean().optional(),
  source: z.enum(["provider", "estimated"]).optional(),
  provider_request_id: Name.optional(),
  response_model: Name.optional(),
  finish_reason: Name.optional(),
});
const Release = z.strictObject({ reason: Name.min(3) });
const Extend = z.strictObject({ ttl_ms: Ttl });

/**
 * The routes that hold and settle. Each gives up after `timeoutMs`; what it has written then is found by the same
 * request once more. Who calls was asked before, and whose a hold is, SQL knows: one of another tenant is not there.
 */
export function budgetApi(app: FastifyInstance, db: Db, timeoutMs: number): void {
  app.get("/budget", async (request) => ({ budgets: await budgetStatus(db, tenantOf(request.caller)) }));

  app.post("/reservations", async (request, reply) => {
    const body = parse(Reserve, request.body, "body");
    const header = parse(Headers, request.headers, "header")["idempotency-key"];
    const asked = {
      ...askOf(body),
      idempotencyKey: keyOf(header, body.idempotency_key),
      ttlMs: body.ttl_ms,
    } satisfies HoldRequest;
    // The hold is that of its key: should the wait end first, the same request finds it.
    const held = await within(timeoutMs, reserveTogether(db, tenantOf(request.caller), asked));
    const { replayed, id, status, estimated_cost_nanousd, max_output_tokens, expires_at } = held;
    const estimated_cost_usd = usdOf(estimated_cost_nanousd);
    if (!replayed) {
      const facts = { provider: body.provider, model: body.model, estimated_cost_nanousd };
      request.log.info({ reservation_id: id, ...inText(facts) }, "llm_reserved");
    }
    return reply
      .code(replayed ? 200 : 201)
      .headers({ location: `/v1/reservations/${id}`, "x-holdfast-reserved": estimated_cost_usd })
      .send({ id, status, estimated_cost_nanousd, estimated_cost_usd, max_output_tokens, expires_at });
  });

  app.post("/quote", async (request) => {
    const answer = await within(
      timeoutMs,
      quote(db, tenantOf(request.caller), askOf(parse(Ask, request.body, "body"))),
    );
    if (answer.refusal !== "reservation_invalid") return answer;
    throw new AppError("reservation_invalid", {
      detail: answer.detail ?? {},
      hint: answer.hint ?? undefined,
    });
  });

  app.post("/reservations/:id/settle", async (request, reply) => {
    const { id } = parse(Id, request.params, "path");
    const body = parse(Settle, request.body, "body");
    const { provider_request_id, response_model, finish_reason } = body;
    const facts = {
      ofClient: true,
      ...(provider_request_id !== undefined && { providerRequestId: provider_request_id }),
      ...(response_model !== undefined && { responseModel: response_model }),
      ...(finish_reason !== undefined && { finishReason: finish_reason }),
    };
    const settled = await within(
      timeoutMs,
      settleTogether(db, tenantOf(request.caller), id, usageOf(body), facts),
    );
    const { status, cost_nanousd, over_hold_nanousd } = settled;
    const over = over_hold_nanousd > 0n;
    request.log[over ? "warn" : "info"](
      { reservation_id: id, ...inText({ cost_nanousd, over_hold_nanousd }) },
      "llm_settled",
    );
    const usd = { cost_usd: usdOf(cost_nanousd), over_hold_usd: usdOf(over_hold_nanousd) };
    reply.header("x-holdfast-spent", usd.cost_usd);
    return { id: settled.id, status, cost_nanousd, over_hold_nanousd, ...usd };
  });

  app.post("/reservations/:id/release", async (request) => {
    const { id } = parse(Id, request.params, "path");
    const { reason } = parse(Release, request.body, "body");
    const released = await within(
      timeoutMs,
      release(db, tenantOf(request.caller), id, reason, { ofClient: true }),
    );
    request.log.info({ reservation_id: id, reason }, "llm_released");
    return released;
  });

  app.post("/reservations/:id/extend", async (request) => {
    const { id } = parse(Id, request.params, "path");
    const { ttl_ms } = parse(Extend, request.body, "body");
    return within(timeoutMs, extend(db, tenantOf(request.caller), id, ttl_ms, { ofClient: true }));
  });
}

/** The key of a hold, which names it for a retry. Keys of runs are the worker's. */
function keyOf(header: string | undefined, body: string | undefined): string {
  const key = header ?? body;
  if (key === undefined) throw refusedKey("header.idempotency-key: required, or body.idempotency_key");
  if (body !== undefined && body !== key) {
    throw refusedKey("body.idempotency_key: another than that of the header");
  }
  if (key.startsWith("run:")) {
    throw refusedKey("header.idempotency-key: those that begin with run: are the worker's");
  }
  return key;
}

function refusedKey(fault: string): AppError {
  return new AppError("invalid_request", {
    message: "The request is not one that this route takes.",
    detail: { faults: [fault] },
    hint: "Send a key of your own, the same for a retry of the same call: Idempotency-Key: call-4711",
  });
}

function askOf(body: z.infer<typeof Ask>) {
  return {
    provider: body.provider,
    model: body.model,
    inputTokensBound: body.input_tokens_bound,
    maxOutputTokens: body.max_output_tokens,
    minOutputTokens: body.min_output_tokens,
    serviceTier: body.service_tier,
    images: body.images,
    toolCalls: body.tool_calls,
    apiKey: body.api_key,
    userId: body.user_id,
    tags: body.tags,
  };
}

function usageOf(body: z.infer<typeof Settle>): Usage {
  return {
    inputTokens: body.input_tokens,
    outputTokens: body.output_tokens,
    cachedInputTokens: body.cached_input_tokens,
    cacheWrite5mTokens: body.cache_write_5m_tokens,
    cacheWrite1hTokens: body.cache_write_1h_tokens,
    reasoningTokens: body.reasoning_tokens,
    images: body.images,
    toolCalls: body.tool_calls,
    final: body.final,
    source: body.source,
  };
}

/** A log knows no bigint. */
function inText(facts: Record<string, string | bigint>): Record<string, string> {
  return Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, String(value)]));
}
