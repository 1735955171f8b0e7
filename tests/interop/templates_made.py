"""Chat templates in the style of published models, written for this comparison, and the chats they get."""

# How a template walks through the messages: the opening of the loop, the role and the content.
WALKS = {
    "attribute": ("{% for m in messages %}", "m.role", "m.content", "{% endfor %}"),
    "item": ("{%- for message in messages -%}", "message['role']", "message['content']", "{%- endfor -%}"),
    "index": (
        "{%- for i in range(messages | length) %}{%- set turn = messages[i] %}",
        "turn.role", "turn['content']", "{%- endfor %}",
    ),
    "slice": (
        "{%- set head = messages[:1] %}{%- set rest = messages[1:] %}{%- for m in head + rest %}",
        "m['role']", "(m.content | default('', true))", "{%- endfor %}",
    ),
    "macro": (
        "{%- macro text(m) -%}{{ m.content if m.content is string else '' }}{%- endmacro -%}{%- for m in messages %}",
        "m.role", "text(m)", "{%- endfor %}",
    ),
}

# Of a family: what begins a text, a turn as `{role}` and `{content}`, and what asks for an answer.
FAMILIES = {
    "chatml": ("", "{{{{ '<|im_start|>' + {role} + '\\n' + {content} + '<|im_end|>' + '\\n' }}}}", "<|im_start|>assistant\\n"),
    "llama3": (
        "{{{{ bos_token }}}}",
        "{{{{ '<|start_header_id|>' + {role} + '<|end_header_id|>\\n\\n' + {content} | trim + '<|eot_id|>' }}}}",
        "<|start_header_id|>assistant<|end_header_id|>\\n\\n",
    ),
    "gemma": (
        "{{{{ bos_token }}}}",
        "{{% if {role} == 'system' %}}{{{{ raise_exception('System role not supported') }}}}{{% endif %}}"
        "{{{{ '<start_of_turn>' + ('model' if {role} == 'assistant' else {role}) + '\\n' + {content} | trim + '<end_of_turn>\\n' }}}}",
        "<start_of_turn>model\\n",
    ),
    "zephyr": (
        "",
        "{{% if {role} == 'user' %}}\n{{{{ '<|user|>\n' + {content} + eos_token }}}}\n{{% elif {role} == 'system' %}}\n"
        "{{{{ '<|system|>\n' + {content} + eos_token }}}}\n{{% elif {role} == 'assistant' %}}\n"
        "{{{{ '<|assistant|>\n'  + {content} + eos_token }}}}\n{{% endif %}}\n",
        "<|assistant|>",
    ),
    "phi3": (
        "",
        "{{% if {role} == 'system' and {content} %}}{{{{ '<|system|>\n' + {content} + '<|end|>\n' }}}}"
        "{{% elif {role} == 'user' %}}{{{{ '<|user|>\n' ~ {content} ~ '<|end|>\n' }}}}"
        "{{% elif {role} == 'assistant' %}}{{{{ '<|assistant|>\n' ~ {content} ~ '<|end|>\n' }}}}{{% endif %}}",
        "<|assistant|>\\n",
    ),
    "phi4": (
        "",
        "{{% if ({role} == 'system') %}}{{{{ '<|im_start|>system<|im_sep|>' + {content} + '<|im_end|>' }}}}"
        "{{% elif ({role} == 'user') %}}{{{{ '<|im_start|>user<|im_sep|>' + {content} + '<|im_end|>' }}}}"
        "{{% elif ({role} == 'assistant') %}}{{{{ '<|im_start|>assistant<|im_sep|>' + {content} + '<|im_end|>' }}}}{{% endif %}}",
        "<|im_start|>assistant<|im_sep|>",
    ),
    "mistral": (
        "{{{{ bos_token }}}}",
        "{{%- if {role} == 'user' %}}{{{{- '[INST] ' + {content} + '[/INST]' }}}}"
        "{{%- elif {role} == 'assistant' %}}{{{{- ' ' + {content} | trim + eos_token }}}}"
        "{{%- else %}}{{{{- raise_exception('Only user and assistant roles are supported, with the exception of an initial optional system message!') }}}}{{%- endif %}}",
        "",
    ),
    "deepseek": (
        "{{{{ bos_token }}}}",
        "{{%- if {role} == 'user' %}}{{{{ '<｜User｜>' + {content} }}}}{{%- elif {role} == 'assistant' %}}"
        "{{{{ '<｜Assistant｜>' + {content} + '<｜end▁of▁sentence｜>' }}}}{{%- elif {role} == 'system' %}}{{{{ {content} }}}}{{%- endif %}}",
        "<｜Assistant｜>",
    ),
    "command": (
        "{{{{ bos_token }}}}",
        "{{% if {role} == 'system' %}}{{{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + {content}.strip() + '<|END_OF_TURN_TOKEN|>' }}}}"
        "{{% elif {role} == 'user' %}}{{{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + {content}.strip() + '<|END_OF_TURN_TOKEN|>' }}}}"
        "{{% elif {role} == 'assistant' %}}{{{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + {content}.strip() + '<|END_OF_TURN_TOKEN|>' }}}}{{% endif %}}",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "alpaca": (
        "",
        "{{%- if {role} == 'system' -%}}\n{{{{ {content} }}}}\n\n{{% elif {role} == 'user' -%}}\n### Instruction:\n{{{{ {content} | trim }}}}\n\n"
        "{{% elif {role} == 'assistant' -%}}\n### Response:\n{{{{ {content} | trim }}}}{{{{ eos_token }}}}\n\n{{% endif -%}}",
        "### Response:\\n",
    ),
    "vicuna": (
        "",
        "{{%- if {role} == 'system' -%}}{{{{ {content} + ' ' }}}}{{%- elif {role} == 'user' -%}}{{{{ 'USER: ' + {content} + ' ' }}}}"
        "{{%- elif {role} == 'assistant' -%}}{{{{ 'ASSISTANT: ' + {content} + eos_token }}}}{{%- endif -%}}",
        "ASSISTANT:",
    ),
    "granite": (
        "",
        "{{{{- '<|start_of_role|>' ~ {role} ~ '<|end_of_role|>' ~ {content} ~ '<|end_of_text|>\n' }}}}",
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    "glm": (
        "[gMASK]<sop>",
        "{{%- if {role} == 'user' %}}<|user|>\n{{{{ {content} }}}}{{%- elif {role} == 'assistant' %}}<|assistant|>\n"
        "{{{{ {content}.split('</think>')[-1].strip() }}}}{{%- else %}}<|system|>\n{{{{ {content} }}}}{{%- endif %}}",
        "<|assistant|>",
    ),
    "falcon": (
        "",
        "{{% if not loop.first %}}{{{{ '\n' }}}}{{% endif %}}{{{{ '<|' + {role} + '|>\n' + {content} }}}}"
        "{{% if {role} == 'assistant' %}}{{{{ eos_token }}}}{{% endif %}}",
        "\\n<|assistant|>\\n",
    ),
}


def family_templates() -> dict[str, str]:
    """Returns every family with every walk."""
    made = {}
    for family, (begin, turn, ask) in FAMILIES.items():
        for walk, (opens, role, content, closes) in WALKS.items():
            body = turn.format(role=role, content=content)
            asks = "{% if add_generation_prompt %}{{ '" + ask + "' }}{% endif %}" if ask else ""
            made[f"{family}-{walk}"] = begin.format() + opens + body + closes + asks
    return made


SPECIAL = {
    "qwen3-tools-and-thinking": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nSignatures inside <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "qwen2-default-system": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama31-tools": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}{%- set first_user_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
    {%- else %}{{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    "mistral-tools": """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}{%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}{{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}{{- '"call_id": "' + message.tool_call_id|string + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception("Only user and assistant roles are supported!") }}{%- endif %}
{%- endfor %}""",
    "gemma3-parts": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}
""",
    "deepseek-r1": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<｜User｜>' + message['content'] }}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{{ '<｜tool▁call▁begin｜>' + tool['type'] + tool['function']['name'] + '\n' + tool['function']['arguments'] + '<｜tool▁call▁end｜>' }}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{ '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}{%- set ns.is_output_first = false %}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}""",
    "harmony": """{%- macro kind(spec) -%}
    {%- if spec.type == "array" -%}{%- if spec['items'] -%}{{- kind(spec['items']) + "[]" -}}{%- else -%}{{- "any[]" -}}{%- endif -%}
    {%- elif spec.enum is defined -%}{{- '"' + spec.enum|join('" | "') + '"' -}}
    {%- elif spec.type == "object" -%}{{- "{ " -}}{%- for name, prop in spec.properties.items() -%}{{- name ~ ": " ~ kind(prop) -}}{%- if not loop.last -%}{{- ", " -}}{%- endif -%}{%- endfor -%}{{- " }" -}}
    {%- else -%}{{- spec.type or "any" -}}{%- endif -%}
{%- endmacro -%}
{{- "<|start|>system<|message|>Current date: " + strftime_now("%Y-%m-%d") + "\\nReasoning: " + (reasoning_effort or "medium") + "<|end|>" }}
{%- if messages[0].role in ["developer", "system"] %}{%- set developer_message = messages[0].content %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set developer_message = "" %}{%- set loop_messages = messages %}{%- endif %}
{%- if developer_message or tools %}{{- "<|start|>developer<|message|>" + developer_message }}
{%- if tools %}{{- "\\nnamespace functions {\\n" }}{%- for tool in tools %}{%- set tool = tool.function %}{{- "type " + tool.name + " = (_: " + kind(tool.parameters) + ") => any;\\n" }}{%- endfor %}{{- "}" }}{%- endif %}{{- "<|end|>" }}{%- endif %}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in loop_messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "tool_calls" in message %}
            {%- set future_final_message = namespace(found=false) %}
            {%- for future_message in loop_messages[loop.index:] %}{%- if future_message.role == 'assistant' and "tool_calls" not in future_message %}{%- set future_final_message.found = true %}{%- endif %}{%- endfor %}
            {%- set tool_call = message.tool_calls[0] %}{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {%- if message.thinking and not future_final_message.found %}{{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{%- endif %}
            {{- "<|start|>assistant to=" }}{{- "functions." + tool_call.name + "<|channel|>commentary json<|message|>" }}{{- tool_call.arguments|tojson }}{{- "<|call|>" }}
            {%- set last_tool_call.name = tool_call.name %}
        {%- elif loop.last and not add_generation_prompt %}
            {%- if "thinking" in message %}{{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{%- endif %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
        {%- else %}{{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}{%- set last_tool_call.name = none %}{%- endif %}
    {%- elif message.role == 'tool' -%}
        {%- if last_tool_call.name is none %}{{- raise_exception("Message has tool role, but there was no previous assistant message with a tool call!") }}{%- endif %}
        {{- "<|start|>functions." + last_tool_call.name }}{{- " to=assistant<|channel|>commentary<|message|>" + message.content|tojson + "<|end|>" }}
    {%- elif message.role == 'user' -%}{{- "<|start|>user<|message|>" + message.content + "<|end|>" }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    "hermes-tools": """{%- macro json_to_python_type(json_spec) %}
{%- set basic_type_map = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}
{%- if basic_type_map[json_spec.type] is defined %}{{- basic_type_map[json_spec.type] }}
{%- elif json_spec.type == "array" %}{{- "list[" +  json_to_python_type(json_spec|items) + "]"}}
{%- elif json_spec.type is iterable and json_spec.type is not string %}{{- "Union[" }}{%- for t in json_spec.type %}{{- json_to_python_type({"type": t}) }}{%- if not loop.last %}{{- "," }}{%- endif %}{%- endfor %}{{- "]" }}
{%- else %}{{- "Any" }}{%- endif %}{%- endmacro %}
{{- bos_token }}{%- if tools %}{%- for tool in tools %}{%- if tool.function is defined %}{%- set tool = tool.function %}{%- endif %}
{{- '{"type": "function", "function": {"name": "' + tool.name + '", "description": "' + tool.name + '(' }}
{%- for param_name, param_fields in tool.parameters.properties|items %}{{- param_name + ": " + json_to_python_type(param_fields) }}{%- if not loop.last %}{{- ", " }}{%- endif %}{%- endfor %}
{{- ")" }}{%- if tool.return is defined %}{{- " -> " + json_to_python_type(tool.return) }}{%- endif %}{{- " - " + (tool.description or '') + '"' }}
{{- ', "parameters": ' }}{%- if tool.parameters.properties | length == 0 %}{{- "{}" }}{%- else %}{{- tool.parameters|tojson }}{%- endif %}{{- "}}" }}{%- if not loop.last %}{{- "\\n" }}{%- endif %}{%- endfor %}{%- endif %}
{%- for message in messages %}{%- if message.role == "assistant" and message.tool_calls is defined %}{{- '<|im_start|>' + message.role }}
{%- for tool_call in message.tool_calls %}{{- '\\n<tool_call>\\n' }}{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}{{- '{"name": "' }}{{- tool_call.name }}{{- '"' }}{%- if tool_call.arguments is defined %}{{- ', "arguments": ' }}{{- tool_call.arguments|tojson }}{%- endif %}{{- '}' }}{{- '\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == "tool" %}{%- if loop.previtem and loop.previtem.role != "tool" %}{{- '<|im_start|>tool\\n' }}{%- endif %}{{- '<tool_response>\\n' }}{{- message.content }}{%- if not loop.last %}{{- '\\n</tool_response>\\n' }}{%- else %}{{- '\\n</tool_response>' }}{%- endif %}{%- if not loop.last and loop.nextitem.role != "tool" %}{{- '<|im_end|>' }}{%- elif loop.last %}{{- '<|im_end|>' }}{%- endif %}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "nemotron": "{%- if tools is iterable and tools | length > 0 %}{{- 'TOOLS ' ~ tools | length ~ '\\n' }}{%- endif %}{%- for m in messages %}{%- if m.role == 'assistant' and m.reasoning_content is defined and m.reasoning_content is string and m.reasoning_content | trim | length > 0 %}{{- '<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n' }}{%- endif %}{{- m.role ~ ': ' ~ (m.content if m.content else '') ~ '\\n' }}{%- endfor %}",
    "smollm3": "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}{%- set mode = '/think' if enable_thinking else '/no_think' -%}{%- set system = messages[0].content if messages[0].role == 'system' else none -%}{%- if system is not none and '/no_think' in system -%}{%- set mode = '/no_think' -%}{%- set system = system.replace('/no_think', '').rstrip() -%}{%- endif -%}{{- '<|im_start|>system\n## Metadata\n\nReasoning Mode: ' + mode + '\n\n' -}}{%- if system -%}{{- system + '\n\n' -}}{%- endif -%}{{- '<|im_end|>\n' -}}{%- for message in messages -%}{%- set content = message.content if message.content is string else '' -%}{%- if message.role == 'user' -%}{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{%- elif message.role == 'assistant' -%}{% generation %}{%- if mode == '/think' -%}{{ '<|im_start|>assistant\n' + content.lstrip('\n') + '<|im_end|>\n' }}{%- else -%}{{ '<|im_start|>assistant\n' + '<think>\n\n</think>\n' + content.lstrip('\n') + '<|im_end|>\n' }}{%- endif -%}{% endgeneration %}{%- elif message.role == 'tool' -%}{{ '<|im_start|>user\n' + content + '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{%- if mode == '/think' -%}{{ '<|im_start|>assistant\n' }}{%- else -%}{{ '<|im_start|>assistant\n' + '<think>\n\n</think>\n' }}{%- endif -%}{%- endif -%}",
    "command-r-tools": "{{ bos_token }}{%- for message in messages %}{%- if message.role|lower == 'system' %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ message.content }}<|END_OF_TURN_TOKEN|>{%- elif message.role|lower == 'user' %}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ message.content }}<|END_OF_TURN_TOKEN|>{%- elif message.role|lower in ['assistant', 'chatbot'] %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% if message.tool_calls %}<|START_THINKING|>{{ message.tool_plan|default('', true) }}<|END_THINKING|><|START_ACTION|>[\n{% for tc in message.tool_calls %}    {\"tool_call_id\": \"{{ loop.index0 }}\", \"tool_name\": {{ tc.function.name | tojson }}, \"parameters\": {{ tc.function.arguments|tojson }}}{% if not loop.last %},{% endif %}\n{% endfor %}]<|END_ACTION|>{% else %}<|START_RESPONSE|>{{ message.content }}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>{%- elif message.role|lower == 'tool' %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[{{ message.content | tojson }}]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>{%- endif %}{%- endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "phi4-mini": "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "granite-tools": "{%- set tools_system = namespace(text='') %}{%- if tools %}{%- for tool in tools %}{%- set tools_system.text = tools_system.text + '\n' + (tool | tojson) %}{%- endfor %}{%- endif %}{%- set g = namespace(u=0, a=0) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set g.u = g.u + 1 %}{%- elif m.role == 'assistant' %}{%- set g.a = g.a + 1 %}{%- endif %}{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' }}{%- if m.content is string %}{{- m.content }}{%- endif %}{%- for call in m.tool_calls or [] %}{{- '<tool_call>' + call.function | tojson }}{%- endfor %}{{- '<|end_of_text|>\n' }}{%- endfor %}{{- tools_system.text }}{{- g.u ~ '/' ~ g.a ~ ' ' ~ (g.u / (g.a or 1)) }}",
    "joined-in-a-namespace": "{% set ns = namespace(out='') %}{% for m in messages %}{% set ns.out = ns.out ~ '[' ~ m.role | upper ~ ']' ~ (m.content or '') ~ '\n' %}{% endfor %}{{ ns.out | trim }}{% if add_generation_prompt %}\n[ASSISTANT]{% endif %}",
    "percent": "{% for m in messages %}{{ '%s|%05d|%-8s>' % (m.content, loop.index, m.role) }}\n{% endfor %}{{ '%(n)s messages' % {'n': messages | length} }}",
    "grouped": "{% for role, group in messages | groupby('role') %}{{ role }}: {{ group | map(attribute='content') | select('string') | join(' / ') }}\n{% endfor %}",
    "first-and-last": "{% set first = messages | first %}{% set last = (messages | last).content %}{{ first.role | capitalize }} {{ last | default('-', true) | trim | length }} {{ messages | map(attribute='role') | unique | sort | join(',') }}",
    "python-printing": "{{ messages }}{{ tools }}{{ messages | length > 2 }}{{ none }}{{ 1.0 }}{{ (1, 'a') }}",
    "json-everything": "{{ messages | tojson }}{{ tools | tojson(indent=2) }}{{ tools | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) if tools else '' }}",
    "control-flow": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 4 %}{% break %}{% endif %}{{ loop.cycle('o', 'e') }}{{ loop.revindex }}{{ m.role[0] }}{{ m.content | default('', true) | replace('\n', ' ') | truncate(12, true, '…', 0) }};{% else %}nothing{% endfor %}",
    "string-methods": "{% for m in messages %}{% set c = m.content or '' %}{{ c.split(none, 1)[0] if c.split() else '' }}|{{ c.strip('<>/') }}|{{ c.title() }}|{{ c.partition('>')[2] }}|{{ c.rsplit('\n', 1)[-1] }}|{{ c.splitlines() | length }}|{{ c.removeprefix('<').removesuffix('>') }}|{{ c[::-1][:3] }}|{{ c.upper().lower() == c.lower() }}\n{% endfor %}",
    "call-blocks": "{% macro turn(role, end='</t>') %}<t {{ role }}>{{ caller() }}{{ end }}{% endmacro %}{% for m in messages %}{% call turn(m.role, end='</t>\n') %}{{ m.content or '' }}{% endcall %}{% endfor %}",
    "generation-blocks": "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content or '' }}{{ '</s>' }}{% endgeneration %}{% else %}{{ m.content or '' }}{% endif %}\n{% endfor %}",
    "generation-in-a-macro-call": "{%- for m in messages -%}\n  {%- if m.role == 'assistant' -%}\n    {%- generation -%}\n    {{- m.content or '' -}}\n    {%- endgeneration -%}\n  {%- else -%}\n    {{- '[' ~ m.content ~ ']' -}}\n  {%- endif -%}\n{%- endfor -%}",
    "roles-must-alternate": "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('Unexpected role: ' ~ m.role ~ ' at ' ~ loop.index0) }}{% endif %}{% if loop.previtem is defined and loop.previtem.role == m.role %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ m.role ~ m.content }}{% endfor %}",
    "inst-merged-system": "{%- set ns = namespace(system='') -%}{%- for m in messages if m.role == 'system' -%}{%- set ns.system = ns.system ~ m.content ~ '\n' -%}{%- endfor -%}{{- bos_token -}}{%- for m in messages if m.role != 'system' -%}{%- if m.role == 'user' -%}[INST] {{ ns.system if loop.first else '' }}{{ m.content }} [/INST]{%- else -%}{{ ' ' ~ (m.content or '') ~ eos_token }}{%- endif -%}{%- endfor -%}",
    "think-dropped-before-the-last-question": "{%- set last = namespace(user=-1) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}{%- endfor -%}{%- for m in messages -%}<|{{ m.role }}|>{%- if m.role == 'assistant' and m.reasoning_content is defined and loop.index0 > last.user -%}<think>{{ m.reasoning_content }}</think>{%- endif -%}{{ m.content if m.content is defined else '' }}<|end|>{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}{%- endif -%}",
    "xml-arguments": "{%- for m in messages -%}{{- '<' ~ m.role ~ '>' ~ (m.content or '') -}}{%- for call in m.tool_calls or [] -%}{{- '<call name=\"' ~ call.function.name ~ '\">' -}}{%- if call.function.arguments is mapping -%}{%- for k, v in call.function.arguments | items -%}{{- '<' ~ k ~ '>' ~ (v | tojson if v is mapping or (v is sequence and v is not string) else v | string) ~ '</' ~ k ~ '>' -}}{%- endfor -%}{%- else -%}{{- call.function.arguments -}}{%- endif -%}</call>{%- endfor -%}{{- '\n' -}}{%- endfor -%}",
    "pythonic-arguments": "{%- for m in messages -%}{{- m.role ~ ': ' -}}{%- if m.tool_calls -%}[{%- for call in m.tool_calls -%}{{- call.function.name -}}({%- for k, v in call.function.arguments.items() -%}{{- k -}}={%- if v is string -%}'{{- v | replace(\"'\", \"\\\\'\") -}}'{%- else -%}{{- v -}}{%- endif -%}{%- if not loop.last -%}, {%- endif -%}{%- endfor -%}){%- endfor -%}]{%- else -%}{{- m.content -}}{%- endif -%}{{- '\n' -}}{%- endfor -%}",
    "white-space": "  {% for m in messages %}  \n    {%+ if m.role %}\n  {{ m.role }}  \n    {%- endif +%}\n\n  {# note #}\n  {{- m.content or '' -}}  \n{% endfor %}  \n\n",
    "arguments-of-the-template": "{{ enable_thinking is defined }}{{ reasoning_effort | default('none given') }}{% if custom and custom.style %}{{ custom.style | upper }}{% endif %}{{ documents is none }}{% for m in messages %}{{ m.content or '' }}{% endfor %}",
}


def templates() -> dict[str, str]:
    """Returns all templates by name."""
    return family_templates() | SPECIAL


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide",
            "description": "Height of the water in \"Hilo\" & elsewhere, in m",
            "parameters": {
                "type": "object",
                "properties": {
                    "bay": {"type": "string", "description": "ʻo ke kū"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                    "unit": {"type": "string", "enum": ["m", "ft"]},
                },
                "required": ["bay"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]

USER = {"role": "user", "content": "Pehea ʻoe?"}
ANSWER = {"role": "assistant", "content": "Maikaʻi nō."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "tide", "arguments": {"bay": "Hilo", "days": [1, 2], "x": None, "y": 1.0, "z": True}}}
    ],
}
RESULT = {"role": "tool", "name": "tide", "tool_call_id": "abcdefghi", "content": "{\"m\": 1.2}"}

CHATS = {
    "one-turn": [USER, ANSWER],
    "question": [USER],
    "system": [{"role": "system", "content": "  E pōkole. /no_think "}, USER, ANSWER],
    "many-turns": [USER, ANSWER] * 4 + [USER],
    "empty-texts": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "white-space": [{"role": "user", "content": "  a\n\nb\t"}, {"role": "assistant", "content": "\n c \n"}],
    "markup": [{"role": "user", "content": "<b>&amp;</b> {{ x }} {% if %} \"'\\"}, {"role": "assistant", "content": "<|im_end|></s>"}],
    "unicode": [{"role": "user", "content": "e\u0301 ʻŌlelo 🌊\u200d🏄 \u2028 \u00a0 ﬁ İ"}, {"role": "assistant", "content": "ǆ ß\x7f"}],
    "thinking": [USER, {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}, USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n6"}],
    "tools": [USER, CALL, RESULT, ANSWER],
    "text-arguments": [USER, {**CALL, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "tide", "arguments": "{\"bay\":\"Hilo\"}"}}]}, RESULT, ANSWER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]}, ANSWER],
    "assistant-first": [ANSWER, USER],
    "same-role-twice": [USER, USER, ANSWER, ANSWER],
    "odd-role": [{"role": "Narrator", "content": "x"}, USER],
    "nothing": [],
    "other-keys": [{"role": "user", "content": "a", "name": "Keola", "weight": 1.5, "empty": None}, {"content": "b", "role": "assistant"}],
}
WITH_TOOLS = {"tools", "system", "one-turn"}

ARGUMENTS = [{}, {"enable_thinking": False, "reasoning_effort": "high", "custom": {"style": "pidgin"}}]
