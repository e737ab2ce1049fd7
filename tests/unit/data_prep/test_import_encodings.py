"""Import of text that is not UTF-8: transcoded where the encoding is sure, dropped where it is not, never mangled."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.content import content_of, decoded

SENTENCES = {
    "Chinese": """
        计算两个日期之间的天数，忽略时区的差别
        如果参数无效，则返回空值
        从配置文件中读取数据库的连接信息
        把用户的名字转换成小写字母再进行比较
        这里需要加锁，否则多个线程会同时写入同一个文件
        请不要修改下面的常量
    """,
    "Traditional Chinese": """
        計算兩個日期之間的天數，忽略時區的差別
        如果參數無效，就傳回空值
        從設定檔讀取資料庫的連線資訊
        把使用者的名字轉換成小寫字母再進行比較
        這裡需要加鎖，否則多個執行緒會同時寫入同一個檔案
    """,
    "Japanese": """
        二つの日付の間の日数を計算します
        引数が無効な場合は例外を投げる
        設定ファイルからデータベースの接続情報を読み込む
        ユーザーの名前を小文字に変換してから比較する
        ここでロックしないと複数のスレッドが同じファイルに書き込む
    """,
    "Korean": """
        두 날짜 사이의 일수를 계산합니다
        인수가 잘못되면 예외를 발생시킨다
        설정 파일에서 데이터베이스 연결 정보를 읽는다
        사용자의 이름을 소문자로 바꾼 다음 비교한다
        여기서 잠그지 않으면 여러 스레드가 같은 파일에 쓰게 된다
    """,
    "French": """
        Calcule le nombre de jours écoulés entre deux dates données
        Vérifie que l'utilisateur a déjà été créé
        Cette méthode est appelée après chaque requête, même là où le résultat a été mis de côté
        La chaîne de caractères doit être libérée par l'appelant à la fin
        Problème connu : le fichier précédent est écrasé
    """,
    "German": """
        Berechnet die Größe der übergebenen Zeichenkette
        Löscht alle Einträge außer dem ersten, falls möglich
        Für jede Änderung wird ein Schlüssel hinzugefügt
        Prüft, ob die Länge der Überschrift gültig ist
        Ungültige Werte führen zu einer Fehlermeldung, die später zurückgegeben wird
    """,
    "Spanish": """
        Calcula el número de días entre dos fechas según el año
        Comprueba si la contraseña es válida
        Devuelve la posición del último carácter, o ninguno si está vacía
        Esta función también añade la sesión al diseño
        El tamaño máximo de la petición está en la configuración
    """,
    "Polish": """
        Oblicza liczbę dni między dwiema datami
        Sprawdź, czy użytkownik już się zalogował
        Jeśli ścieżka jest pusta, zwróć wartość domyślną
        Usuwa wszystkie wpisy oprócz pierwszego, gdy to możliwe
        Łączy się z bazą i pobiera źródłowe żądania
    """,
    "Czech": """
        Spočítá počet dní mezi dvěma daty
        Ověří, zda je uživatel již přihlášen
        Pokud je řetězec prázdný, vrátí výchozí hodnotu
        Smaže všechny položky kromě první, je-li to možné
        Připojí se k databázi a načte poslední změny
    """,
    "Russian": """
        Вычисляет количество дней между двумя датами
        Если аргументы неверны, возвращаем пустое значение
        Проверяет, что пользователь уже вошёл в систему
        Удаляет все записи, кроме первой, если это возможно
        Читает настройки соединения с базой данных
    """,
}
ENCODINGS = {
    "Chinese": ["gb18030"],
    "Traditional Chinese": ["big5"],
    "Japanese": ["cp932", "euc_jp"],
    "Korean": ["cp949"],
    "French": ["cp1252"],
    "German": ["cp1252"],
    "Spanish": ["cp1252"],
    "Polish": ["cp1250", "iso8859_2"],
    "Czech": ["cp1250", "iso8859_2"],
    "Russian": ["cp1251", "koi8_r"],
}
CASES = [(language, encoding) for language, encodings in ENCODINGS.items() for encoding in encodings]
CODE = "int add(int a, int b)\n{\n\treturn a + b;\n}\n"


def sentences(language: str) -> list[str]:
    return [line.strip() for line in SENTENCES[language].strip().splitlines()]


def as_code(lines: list[str]) -> str:
    return CODE + "".join(f"/* {line} */\n{CODE}" for line in lines)


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_comments_in_an_old_encoding_are_told(language, encoding):
    text = as_code(sentences(language))
    found = content_of("src/a.c", text.encode(encoding), 1 << 20)
    assert (found.text, found.language, found.reason) == (text, "C", None)
    assert text.encode(found.encoding) == text.encode(encoding)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_transcoded_is_right_and_what_is_not_is_dropped(data):
    language, encoding = data.draw(st.sampled_from(CASES))
    lines = data.draw(st.lists(st.sampled_from(sentences(language)), min_size=1, max_size=4, unique=True))
    text = as_code(lines)
    found, name, reason = decoded(text.encode(encoding))
    assert (found, reason) in ((text, None), ("", "not_utf8"))
    assert bool(name) is (reason is None)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_bytes_that_mean_nothing_are_never_text(junk):
    try:
        junk.decode()
    except UnicodeDecodeError:
        assert decoded(b"\x01\x02" + junk)[2] in ("not_utf8", "binary")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0x80, 0xFF), min_size=1, max_size=200), st.sampled_from(["", CODE]))
def test_high_bytes_in_any_order_are_not_text(values, code):
    data = code.encode() + bytes(values)
    try:
        data.decode()
    except UnicodeDecodeError:
        assert decoded(data)[2] == "not_utf8"


def test_compressed_data_is_not_text():
    for seed in range(50):
        data = zlib.compress(as_code(sentences("French") * (seed + 1)).encode(), seed % 9 + 1).replace(b"\0", b"\1")
        assert decoded(data)[2] == "not_utf8"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_read_where_it_has_a_byte_order_mark(encoding):
    data = as_code(sentences("German")).encode(encoding)
    if encoding == "utf-16":
        assert decoded(data) == (as_code(sentences("German")), "utf-16", None)
    else:
        assert decoded(data)[2] == "binary"


def test_a_single_accent_says_too_little():
    assert decoded("# café\n".encode("latin-1")) == ("", "", "not_utf8")


def test_documents_say_what_encoding_they_were_in(tmp_path, files, take, rows):
    text = as_code(sentences("Japanese"))
    files(
        tmp_path / "root",
        {
            "r/a.c": text.encode("cp932"),
            "r/b.c": as_code(sentences("Chinese")),
            "r/c.c": as_code(sentences("French")[:1]).encode("cp1252"),
        },
    )
    report = take(tmp_path / "root")
    assert [(row["path"], row["encoding"]) for row in rows()] == [("a.c", "cp932"), ("b.c", "utf-8")]
    assert rows()[0]["text"] == text and rows()[0]["size_bytes"] == len(text.encode())
    assert report.drops["not_utf8"]["examples"] == ["r/c.c"]
