using System;
using System.Collections.Generic;
using System.Linq;
using Mono.Cecil;

// Prints "type<TAB>type it refers to" for every type of the assemblies given, nested ones as the type they are in.
static class Types
{
    static void Main(string[] assemblies)
    {
        foreach (var assembly in assemblies)
            foreach (var type in ModuleDefinition.ReadModule(assembly).GetTypes())
                foreach (var other in new HashSet<string>(Referred(type).SelectMany(Names)))
                    Console.WriteLine(Outer(type) + "\t" + other);
    }

    static string Outer(TypeReference type)
    {
        while (type.DeclaringType != null) type = type.DeclaringType;
        return type.FullName;
    }

    static IEnumerable<string> Names(TypeReference type)
    {
        if (type == null || type is GenericParameter) yield break;
        var generic = type as GenericInstanceType;
        if (generic != null)
            foreach (var name in generic.GenericArguments.SelectMany(Names)) yield return name;
        var of = type as TypeSpecification;
        if (of != null)
            foreach (var name in Names(of.ElementType)) yield return name;
        else
            yield return Outer(type);
    }

    static IEnumerable<TypeReference> Referred(TypeDefinition type)
    {
        yield return type.BaseType;
        foreach (var one in type.Interfaces) yield return one.InterfaceType;
        foreach (var one in Constraints(type)) yield return one;
        foreach (var one in Attributes(type)) yield return one;
        foreach (var field in type.Fields)
        {
            yield return field.FieldType;
            foreach (var one in Attributes(field)) yield return one;
        }
        foreach (var property in type.Properties)
            foreach (var one in Attributes(property)) yield return one;
        foreach (var method in type.Methods)
        {
            yield return method.ReturnType;
            foreach (var one in method.Parameters) yield return one.ParameterType;
            foreach (var one in Constraints(method)) yield return one;
            foreach (var one in Attributes(method)) yield return one;
            if (!method.HasBody) continue;
            foreach (var one in method.Body.Variables) yield return one.VariableType;
            foreach (var one in method.Body.ExceptionHandlers) yield return one.CatchType;
            foreach (var instruction in method.Body.Instructions)
            {
                var operand = instruction.Operand as MemberReference;
                yield return operand as TypeReference ?? (operand == null ? null : operand.DeclaringType);
                var call = instruction.Operand as GenericInstanceMethod;
                if (call != null)
                    foreach (var one in call.GenericArguments) yield return one;
            }
        }
    }

    static IEnumerable<TypeReference> Constraints(IGenericParameterProvider of)
    {
        return of.GenericParameters.SelectMany(one => one.Constraints).Select(one => one.ConstraintType);
    }

    static IEnumerable<TypeReference> Attributes(ICustomAttributeProvider of)
    {
        return of.CustomAttributes.SelectMany(one =>
            one.ConstructorArguments.Select(given => given.Value as TypeReference).Concat(new[] { one.AttributeType }));
    }
}
