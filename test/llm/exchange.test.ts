// What is billed of an answer, by the names that providers have for it.
import { expect, test } from "vitest";
import { exchange } from "../../src/llm/exchange.ts";

async function billed(usage: object): Promise<unknown> {
  const send = async () => Response.json({ id: "x", choices: [], usage });
  const ending = await exchange(send, "http://provider.test/", {}, 1_000);
  return typeof ending.billed === "string" ? ending.billed : ending.billed.usage;
}

const sent = { prompt_tokens: 1_000, completion_tokens: 100 };
const plain = { inputTokens: 1_000, outputTokens: 100, cachedInputTokens: 0 };

test.each<[string, object, object]>([
  ["no kinds", sent, plain],
  [
    "OpenAI's cached tokens",
    { ...sent, prompt_tokens_details: { cached_tokens: 600 } },
    { ...plain, cachedInputTokens: 600 },
  ],
  ["DeepSeek's", { ...sent, prompt_cache_hit_tokens: 600 }, { ...plain, cachedInputTokens: 600 }],
  [
    "OpenRouter's written tokens",
    { ...sent, prompt_tokens_details: { cached_tokens: 100, cache_write_tokens: 300 } },
    { ...plain, cachedInputTokens: 100, cacheWrite5mTokens: 300 },
  ],
  [
    "Anthropic's as part of the prompt",
    { ...sent, cache_read_input_tokens: 600, cache_creation_input_tokens: 300 },
    { ...plain, cachedInputTokens: 600, cacheWrite5mTokens: 300 },
  ],
  [
    "Anthropic's beside the prompt",
    {
      ...sent,
      prompt_tokens: 10,
      total_tokens: 1_110,
      cache_read_input_tokens: 700,
      cache_creation_input_tokens: 300,
    },
    { inputTokens: 1_010, outputTokens: 100, cachedInputTokens: 700, cacheWrite5mTokens: 300 },
  ],
  [
    "written tokens by how long they stay",
    {
      ...sent,
      cache_creation_input_tokens: 500,
      cache_creation: { ephemeral_5m_input_tokens: 200, ephemeral_1h_input_tokens: 300 },
    },
    { ...plain, cacheWrite5mTokens: 200, cacheWrite1hTokens: 300 },
  ],
  [
    "written tokens of which only those of an hour are told apart",
    { ...sent, cache_creation_input_tokens: 500, cache_creation: { ephemeral_1h_input_tokens: 300 } },
    { ...plain, cacheWrite5mTokens: 200, cacheWrite1hTokens: 300 },
  ],
  [
    "reasoning inside of the answer",
    { ...sent, completion_tokens_details: { reasoning_tokens: 80 } },
    { ...plain, reasoningTokens: 80 },
  ],
  [
    "reasoning beside the answer, in the total",
    { ...sent, total_tokens: 1_400, completion_tokens_details: { reasoning_tokens: 300 } },
    { ...plain, outputTokens: 400, reasoningTokens: 300 },
  ],
  [
    "reasoning beside the answer, in no total",
    { ...sent, completion_tokens_details: { reasoning_tokens: 300 } },
    { ...plain, outputTokens: 400, reasoningTokens: 300 },
  ],
  ["more cached than sent", { ...sent, prompt_tokens_details: { cached_tokens: 1_001 } }, plain],
  [
    "more written than sent: dear kinds are believed, as far as they can be true",
    { ...sent, prompt_tokens_details: { cached_tokens: 10, cache_write_tokens: 5_000 } },
    { ...plain, cacheWrite5mTokens: 1_000 },
  ],
  [
    "kinds that are no counts",
    {
      ...sent,
      prompt_tokens_details: { cached_tokens: -1, cache_write_tokens: 1.5 },
      completion_tokens_details: { reasoning_tokens: "many" },
      cache_creation: 7,
      cache_read_input_tokens: Number.MAX_VALUE,
      prompt_cache_hit_tokens: null,
    },
    plain,
  ],
  [
    "sums that are too large to be settled",
    {
      prompt_tokens: 1,
      completion_tokens: 0,
      cache_read_input_tokens: 1e8,
      cache_creation_input_tokens: 1e8,
    },
    { inputTokens: 1e8, outputTokens: 0, cachedInputTokens: 0, cacheWrite5mTokens: 1e8 },
  ],
])("%s", async (_, usage, expected) => {
  expect(await billed(usage)).toEqual(expected);
});

test("whatever a provider counts, SQL can settle it", async () => {
  const some = [undefined, 0, 7, 1_000, 1e8];
  for (const prompt_tokens of [0, 7, 1e8])
    for (const read of some)
      for (const created of some)
        for (const hour of some)
          for (const reasoning of some) {
            const usage = (await billed({
              prompt_tokens,
              completion_tokens: 7,
              total_tokens: 1e8,
              cache_read_input_tokens: read,
              cache_creation_input_tokens: created,
              cache_creation: { ephemeral_1h_input_tokens: hour },
              completion_tokens_details: { reasoning_tokens: reasoning },
            })) as Record<string, number>;
            const { inputTokens = -1, outputTokens = -1, cachedInputTokens = -1 } = usage;
            const { cacheWrite5mTokens = 0, cacheWrite1hTokens = 0, reasoningTokens = 0 } = usage;
            const counts = [
              inputTokens,
              outputTokens,
              cachedInputTokens,
              cacheWrite5mTokens,
              cacheWrite1hTokens,
            ];
            expect(Math.min(...counts, reasoningTokens)).toBeGreaterThanOrEqual(0);
            expect(Math.max(...counts)).toBeLessThanOrEqual(1e8);
            expect(cachedInputTokens + cacheWrite5mTokens + cacheWrite1hTokens).toBeLessThanOrEqual(
              inputTokens,
            );
            expect(reasoningTokens).toBeLessThanOrEqual(outputTokens);
          }
});
