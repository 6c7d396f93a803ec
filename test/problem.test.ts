// Refusals in the shape of RFC 9457, and those for want of money in that of OpenAI too.
import { expect, test } from "vitest";
import { AppError } from "../src/errors.ts";
import { boundOf } from "../src/llm/bound.ts";
import { problemOf } from "../src/problem.ts";

function refusedBy(act: () => unknown): unknown {
  try {
    return act();
  } catch (error) {
    return error;
  }
}

test("an unbounded request is 402 in both shapes, with the field that has no bound", () => {
  const messages = [{ role: "user", content: "x" }];
  const error = refusedBy(() => boundOf({ model: "m", messages, conversation: "c" }));
  const { status, headers, body } = problemOf(error, "r-1");
  expect(status).toBe(402);
  expect(headers).toEqual({ "content-type": "application/problem+json" });
  const hint = "It makes the provider add messages that are not in the request.";
  const facts = { reason: "unbounded_request", field: "conversation" };
  expect(body).toEqual({
    type: "urn:holdfast:problem:unbounded_request",
    title: "Unbounded request",
    status: 402,
    code: "unbounded_request",
    detail: "What this request can cost has no bound.",
    instance: "r-1",
    hint,
    ...facts,
    error: {
      type: "insufficient_quota",
      code: "unbounded_request",
      message: `What this request can cost has no bound. ${hint}`,
      meta: facts,
    },
  });
});

test("dollars stand beside nano-USD, exactly; what is unlimited has no amount, what never ends no end", () => {
  const detail = {
    reason: "exhausted",
    period_end: "infinity",
    limit_nanousd: "9223372036854775807",
    spent_nanousd: 5,
    reserved_nanousd: null,
    error: "not to be replaced",
  };
  const { body } = problemOf(new AppError("budget_exceeded", { detail }), "r-1");
  expect(body).toMatchObject({ period_end: null, spent_nanousd: "5", limit_nanousd: "9223372036854775807" });
  expect(body["error"]).toMatchObject({
    message: "Budget exceeded.",
    meta: {
      limit: "9223372036.854775807",
      limit_nanousd: "9223372036854775807",
      spent: "0.000000005",
      reserved_nanousd: null,
      period_end: null,
    },
  });
  expect(body["error"]).not.toHaveProperty("meta.reserved");
});

test.each<[string, AppError, string | undefined]>([
  ["calls in flight", new AppError("budget_exceeded", { detail: { reason: "in_flight" } }), "2"],
  ["a budget that is spent", new AppError("budget_exceeded", { detail: { reason: "exhausted" } }), undefined],
  ["no price", new AppError("no_price"), undefined],
  ["a locked budget", new AppError("budget_busy"), "1"],
  ["a database that is away", new AppError("service_unavailable"), "2"],
  ["a full queue", new AppError("job_queue_full"), "2"],
  ["what is not there", new AppError("reservation_not_found"), undefined],
])("%s: Retry-After only where waiting helps", (_, error, seconds) => {
  const { status, headers, body } = problemOf(error, "r-1");
  expect(headers["retry-after"]).toBe(seconds);
  expect("error" in body).toBe(status === 402);
});
