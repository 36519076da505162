/** The messages of a server-sent event stream, as text. Comments (keep-alives) and other fields say nothing here. */
export async function* messages(response: Response): AsyncGenerator<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  let message: string[] = [];
  try {
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
      const lines = (left + value).split(/\r?\n/);
      left = lines.pop()!;
      for (const line of lines) {
        if (line.startsWith("data:")) {
          message.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line === "" && message.length > 0) {
          yield message.join("\n");
          message = [];
        }
      }
    }
  } finally {
    await reader.cancel();
  }
}
