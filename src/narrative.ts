// The words of an analysis. SQL has found and computed; a model ranks and words it, or the templates of SQL do.
import { createHash } from "node:crypto";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, type JSONSchema7, jsonSchema, Output } from "ai";
import { AppError } from "./errors.ts";
import { type Attempt, type Llm, ModelCallError, retryingFetch } from "./llm.ts";
import { type AnswerFault, ground, type NarratedItem, type RawAnswer } from "./narrative/answer.ts";
import { ANALYSIS_BOUND, buildPrompt, Candidate, type Prompt } from "./narrative/prompt.ts";

export { ANALYSIS_BOUND, Candidate };

// The SDK would print its warnings past the log.
globalThis.AI_SDK_LOG_WARNINGS = false;

/** Why a run was worded by the templates of SQL instead of by a model. */
export type FallbackReason =
  | AnswerFault
  | ModelCallError["reason"]
  | "budget_exceeded"
  | "no_price"
  | "no_findings";

/** What `app.job_complete` takes for a run of kind `analysis`. */
export type Narration = {
  narrated_by: "model" | "template";
  fallback_reason: FallbackReason | null;
  provider: string;
  model: string;
  prompt_hash: string | null;
  summary: string | null;
  items: NarratedItem[];
};

/** The attempt of a tenant's run that is to be worded. */
export type Run = Attempt & { tenantId: string };

/**
 * Has the model rank and word what was found. Whatever the model does, a narration comes back: by the template, with
 * the reason, when there is nothing to word, no money, no answer, or one that does not hold. Throws only what is not
 * the model's doing: the database's errors, and the reason of the run's signal.
 */
export async function narrate(llm: Llm, run: Run, candidates: Candidate[]): Promise<Narration> {
  const names = { provider: llm.provider.name, model: llm.provider.model };
  if (candidates.length === 0) return template(names, null, "no_findings");

  const prompt = buildPrompt(candidates);
  const hash = createHash("sha256").update(JSON.stringify(prompt.asked)).digest("hex");
  const answer = await ask(llm, run, prompt);
  const wording = typeof answer === "string" ? answer : ground(answer, prompt.sent);
  if (typeof wording !== "string") {
    return { narrated_by: "model", fallback_reason: null, ...names, prompt_hash: hash, ...wording };
  }
  const facts = { tenant_id: run.tenantId, run_id: run.runId, attempt: run.attempt, ...names };
  llm.log.warn({ ...facts, reason: wording }, "analysis_worded_by_template");
  return template(names, hash, wording);
}

function template(
  names: { provider: string; model: string },
  hash: string | null,
  reason: FallbackReason,
): Narration {
  return {
    narrated_by: "template",
    fallback_reason: reason,
    ...names,
    prompt_hash: hash,
    summary: null,
    items: [],
  };
}

/** Asks once, retries included; gives what came back, or why nothing did. */
async function ask(llm: Llm, run: Run, prompt: Prompt): Promise<RawAnswer | FallbackReason> {
  let refused: { by: unknown } | undefined;
  const send = retryingFetch(llm, run.tenantId, run);
  const model = languageModel(llm, (input, init) =>
    send(input, init).catch((error: unknown) => {
      refused = { by: error };
      throw error;
    }),
  );
  try {
    const { text, finishReason } = await generateText({
      model,
      instructions: prompt.asked.instructions,
      prompt: prompt.asked.table,
      output: asText(prompt.asked.schema),
      maxOutputTokens: ANALYSIS_BOUND.maxOutputTokens,
      maxRetries: 0,
    });
    return { text, finishReason };
  } catch (error) {
    // What our own fetch threw is ours to name; all else is an answer that the SDK could not read.
    return refused === undefined ? unreadable(error) : unanswered(refused.by);
  }
}

function languageModel(llm: Llm, send: typeof fetch) {
  const { name, model, baseUrl, apiKey } = llm.provider;
  const provider = createOpenAICompatible({
    name: "provider",
    baseURL: baseUrl,
    ...(apiKey === undefined ? {} : { apiKey }),
    supportsStructuredOutputs: true,
    fetch: send,
    // OpenAI's reasoning models refuse the old name of the limit; other servers know no other.
    transformRequestBody: ({ max_tokens, ...body }) =>
      name === "api.openai.com" ? { ...body, max_completion_tokens: max_tokens } : { ...body, max_tokens },
  });
  return provider(model);
}

/** The SDK puts the schema on the wire; to judge the answer is `ground`'s part. */
function asText(schema: JSONSchema7): Output.Output<string, string, never> {
  const object = Output.object({ schema: jsonSchema(schema), name: "narration" });
  return { ...Output.text(), name: object.name, responseFormat: object.responseFormat };
}

function unanswered(error: unknown): FallbackReason {
  if (error instanceof ModelCallError) return error.reason;
  if (error instanceof AppError && (error.code === "budget_exceeded" || error.code === "no_price"))
    return error.code;
  throw error;
}

function unreadable(error: unknown): FallbackReason {
  const status = APICallError.isInstance(error) ? error.statusCode : undefined;
  return status !== undefined && (status < 200 || status > 299) ? "llm_unavailable" : "llm_invalid_json";
}
